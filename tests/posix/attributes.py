"""Times, modes and owners."""

from __future__ import annotations

import functools
import itertools
import os
import struct
import subprocess
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.credentials import CAP_FSETID
from tests.posix.checks import (
    CAPABILITY,
    EXTENSION,
    GROUP,
    USER,
    ZEROED_RANGES,
    as_user,
    check,
    check_rows,
    libc,
    opened,
    put,
    said,
    seen,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Where one file system or the other ends, and where 64 bits of nanoseconds do (1677 and 2262).
SECONDS = [
    0, 1, 10**9, -1, -(1 << 31) - 1, -(1 << 31), (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    1 << 33, 9_223_372_036, 9_223_372_037, -9_223_372_037, -9_223_372_038, -12_000_000_000,
    15_032_385_535, 15_032_385_536, 16_299_260_424, 16_299_260_425, 32_503_680_000, 1 << 40,
]  # fmt: skip


@check
def times_are_kept_to_the_nanosecond(folder: Path) -> Any:
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
def touch_cp_and_rsync_keep_times(folder: Path) -> Any:
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
def utimensat_can_leave_one_time_alone(folder: Path) -> Any:
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
def noatime_is_for_the_owner_alone(folder: Path) -> Any:
    put(folder / "file")
    os.chmod(folder / "file", 0o644)
    os.utime(folder / "file", ns=(10**17, 10**17))
    flags = os.O_RDONLY | os.O_NOATIME
    with opened(folder / "file", flags) as fd:
        os.read(fd, 100)
    kept = (folder / "file").stat().st_atime_ns
    denied = as_user(lambda: os.close(os.open(folder / "file", flags)))
    return kept, denied, as_user(lambda: os.close(os.open(folder / "file", os.O_RDONLY)))


def times_moved(folder: Path, change: Callable[[Path], Any]) -> Any:
    """Whether a change of a file moves its time of change, of its content and of its attributes."""
    path = put(folder / "file", b"0123456789" * 1000)
    os.utime(path, ns=(10**17, 10**17))
    before = path.stat()
    change(path)
    after = path.stat()
    return after.st_mtime_ns != before.st_mtime_ns, after.st_ctime_ns != before.st_ctime_ns


def write_at(path: Path, content: bytes, offset: int) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, content, offset)


def cut_while_open(path: Path, size: int) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, size)


TIMES: dict[str, tuple[Callable[[Path], Any]]] = {
    "times_moved_by_a_write_of_equal_data": (lambda path: write_at(path, b"0123456789", 0),),
    "times_moved_by_a_write_of_other_data": (lambda path: write_at(path, b"changed", 0),),
    "times_moved_by_a_write_of_zeros": (lambda path: write_at(path, bytes(4096), 0),),
    "times_moved_by_zeros_beyond_the_end": (lambda path: write_at(path, bytes(4096), 1 << 20),),
    "times_moved_by_a_write_of_nothing": (lambda path: write_at(path, b"", 0),),
    "times_moved_by_a_shorter_size": (lambda path: os.truncate(path, 5),),
    "times_moved_by_truncation_to_the_same_size": (lambda path: os.truncate(path, 10_000),),
    "times_moved_by_ftruncate_to_the_same_size": (lambda path: cut_while_open(path, 10_000),),
    "times_moved_by_chmod": (lambda path: os.chmod(path, 0o600),),
    "times_moved_by_reading": (lambda path: path.read_bytes(),),
    "times_moved_by_a_hard_link": (lambda path: os.link(path, path.with_name("hard")),),
    "times_moved_by_a_rename_onto_itself": (lambda path: os.rename(path, path),),
}
check_rows(TIMES, times_moved)


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
def a_write_by_a_user_clears_setuid(folder: Path) -> Any:
    found = []
    for mode in (0o4777, 0o2777, 0o6777):
        put(folder / "file", b"same")
        os.chmod(folder / "file", mode)

        def write() -> None:
            with opened(folder / "file", os.O_WRONLY) as fd:
                os.write(fd, b"same")

        found.append((as_user(write), seen(folder / "file")[0]))
    return found


def setuid_and_capability_left(folder: Path, change: Callable[[Path], Any]) -> Any:
    """What is left of both after a change by root, and by another user."""
    path = folder / "file"
    found = []
    for mode, has_capability in itertools.product((0o6777, 0o2777, 0o777), (False, True)):
        for act in (as_user, said):
            put(path, b"same")
            os.chmod(path, mode)
            if has_capability:
                os.setxattr(path, "security.capability", CAPABILITY)
            found.append((act(lambda: change(path)), seen(path)[0], os.listxattr(path)))
    return found


def write_equal(path: Path, flags: int) -> None:
    with opened(path, flags) as fd:
        os.write(fd, b"same")


CHANGES: dict[str, tuple[Callable[[Path], Any]]] = {
    "setuid_and_capability_after_a_write": (lambda path: write_equal(path, os.O_RDWR),),
    "setuid_and_capability_after_a_blind_write": (lambda path: write_equal(path, os.O_WRONLY),),
    "setuid_and_capability_after_an_append": (
        lambda path: write_equal(path, os.O_WRONLY | os.O_APPEND),
    ),
    "setuid_and_capability_after_an_open_that_truncates": (
        lambda path: write_equal(path, os.O_WRONLY | os.O_TRUNC),
    ),
    "setuid_and_capability_after_truncate": (lambda path: os.truncate(path, 2),),
    "setuid_and_capability_after_ftruncate": (lambda path: cut_while_open(path, 2),),
}
check_rows(CHANGES, setuid_and_capability_left)


def setuid_after_each_change(folder: Path, caller: dict[str, Any]) -> Any:
    """It goes by the user who changes a file, and not by the way: root may have given up what lets
    it stay, and a group that may not execute the file counts for those who are in it alone.
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
    found = []
    for mode in (0o6755, 0o2755, 0o2644, 0o4711):
        paths = [put(folder / f"file-{index}", b"f" * 8192) for index in range(len(changes))]
        opens = zip(paths, changes, strict=True)
        fds = [os.open(path, flags) for path, (flags, _) in opens]
        for fd in fds:
            os.fchown(fd, USER, GROUP)
            os.fchmod(fd, mode)

        def change_all(fds: list[int] = fds) -> list[Any]:
            return [said(change, fd) for fd, (_, change) in zip(fds, changes, strict=True)]

        found.append((oct(mode), as_user(change_all, **caller), *map(seen, paths)))
        for fd in fds:
            os.close(fd)
    os.close(reader)
    return found


CALLERS: dict[str, tuple[dict[str, Any]]] = {
    "setuid_after_changes_by_root_with_fsetid": ({"uid": 0},),
    "setuid_after_changes_by_root_without_fsetid": ({"uid": 0, "without": CAP_FSETID},),
    "setuid_after_changes_by_the_owner": ({"uid": USER},),
    "setuid_after_changes_by_one_of_the_group": ({"uid": USER + 1, "groups": (GROUP,)},),
    "setuid_after_changes_by_a_stranger": ({"uid": USER + 1},),
    "setuid_after_changes_by_a_user_with_fsetid": ({"uid": USER + 1, "with_": CAP_FSETID},),
}
check_rows(CALLERS, setuid_after_each_change, EXTENSION, ZEROED_RANGES)


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
            said_so = as_user(functools.partial(chown, gid), groups=groups)
            found.append((said_so, seen(folder / "file")))
    (folder / "dir").mkdir()
    os.chmod(folder / "dir", 0o2755)
    return found, as_user(lambda: os.chown(folder / "dir", -1, -1)), seen(folder / "dir")[0]


def permitted(folder: Path, call: Callable[[Path], Any], groups: tuple[int, ...] = ()) -> Any:
    """What a call of another user says, and what it leaves."""
    put(folder / "secret").chmod(0o600)
    put(folder / "public").chmod(0o666)
    put(folder / "group")
    os.chown(folder / "group", 0, GROUP)
    os.chmod(folder / "group", 0o660)
    os.chmod(folder, 0o755)
    return as_user(lambda: call(folder), groups=groups), tree(folder)


PERMISSIONS: dict[str, tuple[Any, ...]] = {
    "permission_to_read_a_secret": (lambda folder: (folder / "secret").read_bytes(),),
    "permission_to_read_what_is_public": (lambda folder: (folder / "public").read_bytes(),),
    "permission_to_read_for_a_group_of_others": (lambda folder: (folder / "group").read_bytes(),),
    "permission_to_read_for_the_callers_group": (
        lambda folder: (folder / "group").read_bytes(),
        (GROUP,),
    ),
    "permission_to_write_what_is_public": (lambda folder: put(folder / "public", b"x") and None,),
    "permission_to_mkdir_in_a_folder_of_root": (lambda folder: os.mkdir(folder / "new"),),
    "permission_to_unlink_in_a_folder_of_root": (lambda folder: os.unlink(folder / "public"),),
    "permission_to_chmod_a_file_of_root": (lambda folder: os.chmod(folder / "public", 0),),
    "permission_to_touch_what_is_public": (lambda folder: os.utime(folder / "public"),),
    "permission_to_set_times_of_a_file_of_root": (
        lambda folder: os.utime(folder / "public", ns=(1, 1)),
    ),
    "permission_to_truncate_a_secret": (lambda folder: os.truncate(folder / "secret", 0),),
    "permission_by_access_of_a_secret": (lambda folder: os.access(folder / "secret", os.R_OK),),
    "permission_to_chown_a_file_of_root": (lambda folder: os.chown(folder / "public", USER, -1),),
}
check_rows(PERMISSIONS, permitted)


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
