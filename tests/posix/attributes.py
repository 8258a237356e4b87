"""Times, modes and owners."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

from mirrorfs.backing.credentials import CAP_FSETID
from tests.posix.checks import (
    CAPABILITY,
    GROUP,
    USER,
    as_user,
    check,
    libc,
    opened,
    put,
    said,
    seen,
)

# Where one file system or the other ends, and where 64 bits of nanoseconds do (1677 and 2262).
SECONDS = [
    0, 1, 10**9, -1, -(1 << 31) - 1, -(1 << 31), (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    1 << 33, 9_223_372_036, 9_223_372_037, -9_223_372_037, -9_223_372_038, -12_000_000_000,
    15_032_385_535, 15_032_385_536, 16_299_260_424, 16_299_260_425, 32_503_680_000, 1 << 40,
]  # fmt: skip


@check
def times_to_the_nanosecond(folder: Path) -> Any:
    put(folder / "file")
    (folder / "dir").mkdir()
    os.symlink("nowhere", folder / "link")
    found = []
    for seconds in SECONDS:
        pair = seconds * 10**9 + 123_456_789, seconds * 10**9 + 987_654_321
        for name in ("file", "dir", "link"):
            os.utime(folder / name, ns=pair, follow_symlinks=False)
            status = (folder / name).lstat()
            found.append((status.st_atime_ns, status.st_mtime_ns))
    with os.scandir(folder) as listed:  # their attributes come with the names
        return found, sorted(
            (entry.name, entry.stat(follow_symlinks=False).st_mtime_ns) for entry in listed
        )


@check
def tools_keep_times(folder: Path) -> Any:
    (folder / "copies").mkdir()
    names = []
    for date in ("1580-01-02 03:04:05.6 UTC", "2446-05-10 22:38:55.5 UTC", "3000-01-01 UTC"):
        names.append(date[:4])
        subprocess.run(["touch", "-d", date, names[-1]], cwd=folder, check=True)
        subprocess.run(["cp", "-p", names[-1], "copies/"], cwd=folder, check=True)
    subprocess.run(["rsync", "-a", *names, "copies/deep/"], cwd=folder, check=True)
    found = [f"{place}{name}" for place in ("", "copies/", "copies/deep/") for name in names]
    shown = ["stat", "-c", "%n %.9Y", *found]
    return subprocess.run(shown, cwd=folder, check=True, capture_output=True, text=True).stdout


@check
def one_time_can_be_left_alone(folder: Path) -> Any:
    put(folder / "file")
    os.utime(folder / "file", ns=(5, 6))
    path = os.fsencode(folder / "file")
    omit, now = (1 << 30) - 2, (1 << 30) - 1
    libc.utimensat(-100, path, struct.pack("qqqq", 0, omit, 0, 7), 0)
    first = (folder / "file").stat()
    libc.utimensat(-100, path, struct.pack("qqqq", 0, now, 0, omit), 0)
    second = (folder / "file").stat()
    return (
        (first.st_atime_ns, first.st_mtime_ns),
        second.st_atime_ns > 10**18,
        second.st_mtime_ns,
    )


@check
def a_time_of_access_is_kept_for_the_owner_alone(folder: Path) -> Any:
    put(folder / "file")
    os.chmod(folder / "file", 0o644)
    os.utime(folder / "file", ns=(10**17, 10**17))
    flags = os.O_RDONLY | os.O_NOATIME
    with opened(folder / "file", flags) as fd:
        os.read(fd, 100)
    kept = (folder / "file").stat().st_atime_ns
    denied = as_user(lambda: os.close(os.open(folder / "file", flags)))
    return kept, denied, as_user(lambda: os.close(os.open(folder / "file", os.O_RDONLY)))


@check
def what_moves_which_time(folder: Path) -> Any:
    path = folder / "file"

    def moved(call: Callable[[], Any]) -> list[bool]:
        put(path, b"0123456789" * 1000)
        os.utime(path, ns=(10**17, 10**17))
        before = path.stat()
        call()
        after = path.stat()
        return [after.st_mtime_ns != before.st_mtime_ns, after.st_ctime_ns != before.st_ctime_ns]

    def write(content: bytes, offset: int) -> None:
        with opened(path, os.O_RDWR) as fd:
            os.pwrite(fd, content, offset)

    def cut_while_open(size: int) -> None:
        with opened(path, os.O_RDWR) as fd:
            os.ftruncate(fd, size)

    return [
        moved(lambda: write(b"0123456789", 0)),
        moved(lambda: write(b"changed", 0)),
        moved(lambda: write(bytes(4096), 0)),
        moved(lambda: write(bytes(4096), 1 << 20)),
        moved(lambda: write(b"", 0)),
        moved(lambda: os.truncate(path, 5)),
        moved(lambda: os.truncate(path, 10_000)),  # its size already
        moved(lambda: cut_while_open(10_000)),
        moved(lambda: os.chmod(path, 0o600)),
        moved(lambda: path.read_bytes()),
        moved(lambda: os.link(path, folder / "hard")),
        moved(lambda: os.rename(path, path)),
    ]


@check
def modes_are_kept(folder: Path) -> Any:
    put(folder / "file")
    (folder / "dir").mkdir()
    found = []
    for mode in (0, 0o777, 0o4755, 0o2755, 0o6711, 0o1777):
        for name in ("file", "dir"):
            os.chmod(folder / name, mode)
            found.append(seen(folder / name)[0])
    return found


@check
def owners_are_kept(folder: Path) -> Any:
    put(folder / "file")
    os.chmod(folder / "file", 0o6755)
    os.chown(folder / "file", USER, GROUP)
    os.symlink("nowhere", folder / "link")
    os.lchown(folder / "link", USER, -1)
    return seen(folder / "file"), seen(folder / "link")[2:4]


@check
def writing_clears_setuid(folder: Path) -> Any:
    found = []
    for mode in (0o4777, 0o2777, 0o6777):
        put(folder / "file", b"same")
        os.chmod(folder / "file", mode)

        def write() -> None:
            with opened(folder / "file", os.O_WRONLY) as fd:
                os.write(fd, b"same")

        found.append((as_user(write), seen(folder / "file")[0]))
    return found


@check
def whoever_changes_a_file_takes_its_setuid_and_capability(folder: Path) -> Any:
    path = folder / "file"

    def write(flags: int) -> None:
        with opened(path, flags) as fd:
            os.write(fd, b"same")

    def cut_while_open() -> None:
        with opened(path, os.O_RDWR) as fd:
            os.ftruncate(fd, 2)

    changes: list[Callable[[], Any]] = [
        lambda: write(os.O_RDWR),
        lambda: write(os.O_WRONLY),
        lambda: write(os.O_WRONLY | os.O_APPEND),
        lambda: write(os.O_WRONLY | os.O_TRUNC),
        lambda: os.truncate(path, 2),
        cut_while_open,
    ]
    found = []
    for change, mode, has_capability in itertools.product(
        changes, (0o6777, 0o2777, 0o777), (False, True)
    ):
        for act in (as_user, said):
            put(path, b"same")
            os.chmod(path, mode)
            if has_capability:
                os.setxattr(path, "security.capability", CAPABILITY)
            found.append((act(change), seen(path)[0], os.listxattr(path)))
    return found


@check
def setuid_goes_by_who_changes_a_file_and_not_by_how(folder: Path) -> Any:
    """Root may have given up what lets it stay, and a group that may not execute the file counts
    for those who are in it alone.
    """
    block, punch, zero = 4096, 2 | 1, 16
    reader = os.open(put(folder / "source", b"s" * 8192), os.O_RDONLY)
    changes: list[tuple[int, Callable[[int], Any]]] = [
        (os.O_RDWR, lambda fd: os.pwrite(fd, b"x", 0)),
        (os.O_RDWR, lambda fd: os.pwrite(fd, b"f", 1)),
        (os.O_WRONLY, lambda fd: os.pwrite(fd, b"x", 0)),
        (os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"x")),
        (os.O_RDWR, lambda fd: os.ftruncate(fd, 5000)),
        (os.O_RDWR, lambda fd: os.posix_fallocate(fd, block, block)),
        (os.O_RDWR, lambda fd: libc.fallocate(fd, punch, block, block)),
        (os.O_RDWR, lambda fd: libc.fallocate(fd, zero, block, block)),
        (os.O_RDWR, lambda fd: os.copy_file_range(reader, fd, block, 0, 0)),
    ]
    callers: list[dict[str, Any]] = [
        {"uid": 0},
        {"uid": 0, "without": CAP_FSETID},
        {"uid": USER},
        {"uid": USER + 1, "groups": (GROUP,)},
        {"uid": USER + 1},
        {"uid": USER + 1, "with_": CAP_FSETID},
    ]
    found = []
    for mode, caller in itertools.product((0o6755, 0o2755, 0o2644, 0o4711), callers):
        paths = [put(folder / f"file-{index}", b"f" * 8192) for index in range(len(changes))]
        opens = zip(paths, changes, strict=True)
        fds = [os.open(path, flags) for path, (flags, _) in opens]
        for fd in fds:
            os.fchown(fd, USER, GROUP)
            os.fchmod(fd, mode)

        def change_all(fds: list[int] = fds) -> list[Any]:
            return [said(change, fd) for fd, (_, change) in zip(fds, changes, strict=True)]

        found.append((oct(mode), caller, as_user(change_all, **caller), *map(seen, paths)))
        for fd in fds:
            os.close(fd)
    os.close(reader)
    return found


@check
def a_truncation_that_fails_leaves_setuid(folder: Path) -> Any:
    put(folder / "file")
    os.chmod(folder / "file", 0o6777)
    return as_user(lambda: os.truncate(folder / "file", 1 << 62)), seen(folder / "file")[0]


@check
def an_owner_set_to_what_it_was_clears_setuid(folder: Path) -> Any:
    found = []
    for mode in (0o4755, 0o2755, 0o6711, 0o2644):
        put(folder / "file")
        os.chmod(folder / "file", mode)
        os.chown(folder / "file", -1, -1)
        found.append(seen(folder / "file")[0])
    return found


@check
def a_chown_takes_setuid_from_the_files_of_the_caller_alone(folder: Path) -> Any:
    def chown(gid: int) -> None:
        os.chown(folder / "file", -1, gid)

    found = []
    modes = (0o4755, 0o2755, 0o2644, 0o755)
    for owner, mode, groups in itertools.product((0, USER), modes, ((), (GROUP,))):
        for gid in (-1, USER):
            put(folder / "file")
            os.chown(folder / "file", owner, GROUP)
            os.chmod(folder / "file", mode)
            said_so = as_user(lambda gid=gid: chown(gid), groups=groups)
            found.append((said_so, seen(folder / "file")))
    (folder / "dir").mkdir()
    os.chmod(folder / "dir", 0o2755)
    return found, as_user(lambda: os.chown(folder / "dir", -1, -1)), seen(folder / "dir")[0]


@check
def permissions_are_checked(folder: Path) -> Any:
    put(folder / "secret")
    os.chmod(folder / "secret", 0o600)
    put(folder / "open")
    os.chmod(folder / "open", 0o666)
    put(folder / "group")
    os.chown(folder / "group", 0, GROUP)
    os.chmod(folder / "group", 0o660)
    os.chmod(folder, 0o755)
    return [
        as_user(lambda: (folder / "secret").read_bytes()),
        as_user(lambda: (folder / "open").read_bytes()),
        as_user(lambda: (folder / "group").read_bytes()),
        as_user(lambda: (folder / "group").read_bytes(), groups=(GROUP,)),
        as_user(lambda: os.mkdir(folder / "new")),
        as_user(lambda: os.unlink(folder / "open")),
        as_user(lambda: os.chmod(folder / "open", 0)),
        as_user(lambda: os.utime(folder / "open")),
        as_user(lambda: os.utime(folder / "open", ns=(1, 1))),
        as_user(lambda: os.truncate(folder / "secret", 0)),
        as_user(lambda: os.access(folder / "secret", os.R_OK)),
        as_user(lambda: os.chown(folder / "open", USER, -1)),
    ]


@check
def new_things_belong_to_their_maker(folder: Path) -> Any:
    os.chmod(folder, 0o777)

    def make() -> None:
        put(folder / "file")
        (folder / "dir").mkdir()
        os.symlink("x", folder / "link")
        os.mkfifo(folder / "fifo")

    as_user(make)
    return [seen(folder / name) for name in ("file", "dir", "link", "fifo")]


@check
def a_setgid_folder_hands_down_its_group(folder: Path) -> Any:
    os.chown(folder, 0, GROUP)
    os.chmod(folder, 0o2777)

    def make() -> None:
        put(folder / "file")
        (folder / "dir").mkdir()

    as_user(make)
    return seen(folder / "file"), seen(folder / "dir")


@check
def a_sticky_folder_protects_others_files(folder: Path) -> Any:
    os.chmod(folder, 0o1777)
    put(folder / "roots")
    as_user(lambda: put(folder / "users"))
    return [
        as_user(lambda: os.unlink(folder / "roots")),
        as_user(lambda: os.rename(folder / "roots", folder / "x")),
        as_user(lambda: os.unlink(folder / "users")),
    ]
