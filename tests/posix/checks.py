"""What a client can see of a folder, as a list of checks that run on any folder.

Each check gets an empty folder and returns what it saw; times, inode numbers and paths, which
differ from folder to folder by nature, stay out of it. An error is seen as its name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Check = Callable[[Path], Any]
CHECKS: dict[str, Check] = {}
USER, GROUP = 12345, 23456

_libc = ctypes.CDLL(None, use_errno=True)


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def said(call: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """What a call returns, or the name of its error."""
    try:
        return call(*args, **words)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc.errno))


def seen(path: Path) -> tuple[str, int, int, int, int]:
    """Kind and mode, links, owner, group, size (of files and links)."""
    status = path.lstat()
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return oct(status.st_mode), status.st_nlink, status.st_uid, status.st_gid, size


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def as_user(call: Callable[[], Any], uid: int = USER, groups: tuple[int, ...] = ()) -> Any:
    """What a call says in a process of another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            os.write(writing, repr(said(call)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


def put(path: Path, content: bytes = b"content") -> Path:
    path.write_bytes(content)
    return path


def rename_with(flags: int, source: Path, target: Path) -> Any:
    if _libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return 0


# --- making and removing -----------------------------------------------------------------------


@check
def modes_of_new_things_follow_the_umask(folder: Path) -> Any:
    found = []
    for mask in (0, 0o022, 0o077, 0o777):
        with umask(mask):
            os.close(os.open(folder / f"file{mask}", os.O_CREAT | os.O_WRONLY, 0o7777))
            (folder / f"dir{mask}").mkdir(0o1777)
            os.mkfifo(folder / f"fifo{mask}", 0o666)
        found += [seen(folder / f"{kind}{mask}") for kind in ("file", "dir", "fifo")]
    return found


@check
def errors_of_names(folder: Path) -> Any:
    put(folder / "file")
    (folder / "dir").mkdir()
    os.symlink("loop", folder / "loop")
    return [
        said(os.stat, folder / "none"),
        said(os.stat, folder / "file/x"),
        said(os.stat, folder / "loop"),
        said(os.stat, folder / ("n" * 256)),
        said(os.mkdir, folder / "file"),
        said(os.mkdir, folder / "none/x"),
        said(os.mkdir, folder / ("n" * 256)),
        said(os.rmdir, folder / "file"),
        said(os.unlink, folder / "dir"),
        said(os.rmdir, folder / "none"),
        said(os.rmdir, f"{folder}/dir/."),
        said(os.unlink, folder / "none"),
        said(os.symlink, "x", folder / "file"),
        said(os.mkfifo, folder / "file"),
        said(os.link, folder / "dir", folder / "hard"),
        said(os.link, folder / "file", folder / "dir"),
        said(os.readlink, folder / "file"),
        said(os.listdir, folder / "file"),
        said(os.truncate, folder / "dir", 0),
        said(os.mkdir, folder / ("n" * 255)),
    ]


@check
def a_folder_with_content_is_not_removed(folder: Path) -> Any:
    (folder / "dir/sub").mkdir(parents=True)
    first = said(os.rmdir, folder / "dir")
    os.rmdir(folder / "dir/sub")
    return first, said(os.rmdir, folder / "dir"), os.listdir(folder)


@check
def links_of_folders_count_their_children(folder: Path) -> Any:
    # btrfs always says 1; what matters is that both sides say the same.
    counts = [folder.stat().st_nlink]
    for number in range(3):
        (folder / f"dir{number}").mkdir()
        counts.append(folder.stat().st_nlink)
    os.rmdir(folder / "dir1")
    return [*counts, folder.stat().st_nlink]


@check
def open_flags(folder: Path) -> Any:
    put(folder / "file", b"0123456789")
    (folder / "dir").mkdir()
    os.symlink("file", folder / "link")
    os.symlink("nowhere", folder / "dangling")

    def trial(name: str, flags: int) -> Any:
        fd = said(os.open, folder / name, flags, 0o600)
        if isinstance(fd, int):
            os.close(fd)
            return os.stat(folder / name).st_size
        return fd

    return [
        trial("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        trial("link", os.O_RDONLY | os.O_NOFOLLOW),
        trial("link", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        trial("dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        trial("dangling", os.O_CREAT | os.O_WRONLY),
        trial("file", os.O_RDONLY | os.O_DIRECTORY),
        trial("dir", os.O_WRONLY),
        trial("dir", os.O_RDONLY | os.O_CREAT),
        trial("file", os.O_RDWR | os.O_DIRECT),
        trial("file", os.O_RDWR | os.O_SYNC),
        trial("file", os.O_RDONLY | os.O_TRUNC),
        trial("new", os.O_RDWR | os.O_CREAT | os.O_TRUNC),
        sorted(os.listdir(folder)),
    ]


@check
def a_file_made_without_permission_can_still_be_written_by_its_maker(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0) as fd:
        written = os.write(fd, b"x")
        os.lseek(fd, 0, os.SEEK_SET)
        return written, os.read(fd, 10), seen(folder / "file")


@check
def special_files_of_every_kind(folder: Path) -> Any:
    found = []
    for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        path = folder / str(kind)
        os.mknod(path, kind | 0o640, os.makedev(7, 9))
        status = path.lstat()
        found.append((seen(path), os.major(status.st_rdev), os.minor(status.st_rdev)))
    return found


@check
def a_fifo_carries_bytes(folder: Path) -> Any:
    os.mkfifo(folder / "fifo")
    thread = threading.Thread(target=lambda: (folder / "fifo").write_bytes(b"through"))
    thread.start()
    got = (folder / "fifo").read_bytes()
    thread.join()
    return got


@check
def a_socket_can_be_reached(folder: Path) -> Any:
    here = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            client.connect("socket")
            return seen(folder / "socket")[0]
    finally:
        os.chdir(here)


# --- names -------------------------------------------------------------------------------------


@check
def symbolic_links_keep_their_target(folder: Path) -> Any:
    targets = [b"file", b"/etc/passwd", b"../..", b"\xff\xfe", b"x" * 1000, b" "]
    for number, target in enumerate(targets):
        os.symlink(target, os.fsencode(folder / str(number)))
    return [
        (os.readlink(os.fsencode(folder / str(number))), (folder / str(number)).lstat().st_size)
        for number in range(len(targets))
    ] + [said(os.symlink, "", folder / "empty"), said(os.symlink, "x" * 5000, folder / "long")]


@check
def hard_links_are_one_file(folder: Path) -> Any:
    put(folder / "a")
    os.link(folder / "a", folder / "b")
    with (folder / "b").open("ab") as file:
        file.write(b" more")
    os.chmod(folder / "b", 0o600)
    one = os.path.samefile(folder / "a", folder / "b")
    before = seen(folder / "a")
    os.unlink(folder / "a")
    return one, before, seen(folder / "b"), (folder / "b").read_bytes()


@check
def a_hard_link_to_a_symbolic_link(folder: Path) -> Any:
    os.symlink("nowhere", folder / "link")
    os.link(folder / "link", folder / "hard", follow_symlinks=False)
    return seen(folder / "hard"), os.readlink(folder / "hard")


@check
def renames(folder: Path) -> Any:
    put(folder / "a", b"a")
    put(folder / "b", b"b")
    (folder / "dir/sub").mkdir(parents=True)
    (folder / "empty").mkdir()
    return [
        said(os.rename, folder / "a", folder / "b"),
        (folder / "b").read_bytes(),
        said(os.rename, folder / "b", folder / "dir"),
        said(os.rename, folder / "dir", folder / "b"),
        said(os.rename, folder / "dir", folder / "dir/sub/x"),
        said(os.rename, folder / "empty", folder / "dir"),
        said(os.rename, folder / "dir", folder / "empty"),
        said(os.rename, folder / "none", folder / "x"),
        said(os.rename, folder / "b", folder / "none/x"),
        said(os.rename, folder / "b", folder / ("n" * 256)),
        said(os.rename, folder / "b", folder / "b"),
        said(os.rename, folder / "b", folder / "empty/sub/b"),
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
    ]


@check
def renames_with_flags(folder: Path) -> Any:
    put(folder / "a", b"a")
    put(folder / "b", b"b")
    (folder / "dir").mkdir()
    return [
        rename_with(1, folder / "a", folder / "b"),
        rename_with(1, folder / "a", folder / "c"),
        rename_with(2, folder / "c", folder / "b"),
        (folder / "b").read_bytes(),
        rename_with(2, folder / "c", folder / "none"),
        rename_with(2, folder / "c", folder / "dir"),
        seen(folder / "c")[0][:5],
        rename_with(3, folder / "b", folder / "c"),
        rename_with(64, folder / "b", folder / "c"),
        sorted(os.listdir(folder)),
    ]


@check
def a_whiteout_is_left_by_rename(folder: Path) -> Any:
    put(folder / "a")
    return rename_with(4, folder / "a", folder / "b"), seen(folder / "a"), seen(folder / "b")


@check
def renaming_one_hard_link_onto_the_other_does_nothing(folder: Path) -> Any:
    put(folder / "a")
    os.link(folder / "a", folder / "b")
    os.rename(folder / "a", folder / "b")
    return sorted(os.listdir(folder)), seen(folder / "b")


@check
def a_file_replaced_while_open_stays_readable(folder: Path) -> Any:
    put(folder / "old", b"old")
    put(folder / "new", b"new")
    with opened(folder / "old", os.O_RDWR) as fd:
        os.rename(folder / "new", folder / "old")
        os.pwrite(fd, b"OLD and", 0)
        return os.pread(fd, 100, 0), os.fstat(fd).st_nlink, (folder / "old").read_bytes()


@check
def an_unlinked_open_file_works(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.unlink(folder / "file")
        os.write(fd, b"content")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 4)
        os.utime(fd, ns=(1, 2))
        status = os.fstat(fd)
        put(folder / "file", b"another")
        return (
            os.pread(fd, 100, 0),
            oct(status.st_mode),
            status.st_nlink,
            status.st_mtime_ns,
            said(os.link, f"/proc/self/fd/{fd}", folder / "back"),
        )


@check
def a_removed_working_folder_still_answers(folder: Path) -> Any:
    (folder / "dir").mkdir()
    with opened(folder / "dir", os.O_RDONLY) as fd:
        os.rmdir(folder / "dir")
        return os.listdir(fd), said(os.mkdir, "x", dir_fd=fd), os.fstat(fd).st_nlink in {0, 1}


@check
def a_listing_survives_deletion_while_reading(folder: Path) -> Any:
    for number in range(2000):
        (folder / f"file-{number}").touch()
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    return removed, os.listdir(folder)


@check
def a_listing_knows_the_kinds(folder: Path) -> Any:
    put(folder / "file")
    (folder / "dir").mkdir()
    os.symlink("x", folder / "link")
    os.mkfifo(folder / "fifo")
    with os.scandir(folder) as entries:
        return sorted(
            (
                e.name,
                e.is_file(follow_symlinks=False),
                e.is_dir(follow_symlinks=False),
                e.is_symlink(),
            )
            for e in entries
        )


@check
def names_of_any_bytes(folder: Path) -> Any:
    raw = os.fsencode(folder)
    for byte in range(1, 256):
        if byte != ord("/"):
            with open(os.path.join(raw, b"n" + bytes([byte])), "wb"):
                pass
    return sorted(os.listdir(raw))


# --- content -----------------------------------------------------------------------------------


@check
def writes_at_odd_places(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        done = [
            os.pwrite(fd, b"a" * 5000, 3),
            os.pwrite(fd, bytes(9000), 4000),
            os.pwrite(fd, b"b", 100_000),
            os.pwrite(fd, b"", 500_000),
            os.pwritev(fd, [b"x" * 10, bytes(5000), b"y"], 50_001),
        ]
        os.ftruncate(fd, 60_000)
        os.ftruncate(fd, 70_000)
        return done, os.pread(fd, 200_000, 0), os.pread(fd, 10, 69_995), os.pread(fd, 10, 80_000)


@check
def handles_only_do_what_they_were_opened_for(folder: Path) -> Any:
    put(folder / "file")
    with (
        opened(folder / "file", os.O_RDONLY) as reading,
        opened(folder / "file", os.O_WRONLY) as writing,
    ):
        return [
            said(os.write, reading, b"x"),
            said(os.read, writing, 1),
            said(os.ftruncate, reading, 0),
            said(os.ftruncate, writing, 3),
            said(os.ftruncate, writing, -1),
            said(os.pread, reading, 10, 0),
        ]


@check
def appending_goes_to_the_end_whatever_the_offset(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR | os.O_APPEND) as fd:
        os.write(fd, b"one")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        os.truncate(folder / "file", 2)
        os.write(fd, b"three")
        return (folder / "file").read_bytes()


@check
def two_appenders(folder: Path) -> Any:
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    with opened(folder / "file", flags) as one, opened(folder / "file", flags) as two:
        for number in range(100):
            os.write((one, two)[number % 2], b"%03d" % number)
    return (folder / "file").read_bytes()


@check
def truncation_by_name_and_by_open(folder: Path) -> Any:
    put(folder / "file", b"0123456789")
    found = []
    for size in (4, 9000, 4097, 0, 1):
        os.truncate(folder / "file", size)
        found.append((folder / "file").read_bytes())
    put(folder / "file", b"again")
    os.close(os.open(folder / "file", os.O_WRONLY | os.O_TRUNC))
    return found, (folder / "file").read_bytes(), said(os.truncate, folder / "none", 0)


@check
def a_sparse_file_tells_its_true_blocks(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 30)
        os.pwrite(fd, b"x" * 4096, 1 << 20)
        os.fsync(fd)
    status = (folder / "file").stat()
    return status.st_size, status.st_blocks * 512 < 1 << 20, status.st_blocks > 0


@check
def shared_mappings_reach_the_file(folder: Path) -> Any:
    put(folder / "file", bytes(10_000))
    with (folder / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[5000:5005] = b"hello"
        view.flush()
        first = (folder / "file").read_bytes()
        file.seek(0)
        file.write(b"start")
        file.flush()
        return first, bytes(view[:5])


@check
def a_direct_open_reads_and_writes(folder: Path) -> Any:
    buffer = mmap.mmap(-1, 8192)
    buffer[:] = b"d" * 8192
    with opened(folder / "file", os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd:
        written = os.pwritev(fd, [buffer], 4096)
    return written, (folder / "file").read_bytes()


@check
def a_file_size_limit_is_kept(folder: Path) -> Any:
    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
            first = os.pwrite(fd, b"x" * 20_000, 0)
            return first, said(os.pwrite, fd, b"x", 10_000), said(os.ftruncate, fd, 20_000)

    return as_user(limited, uid=os.getuid()), (folder / "file").stat().st_size


@check
def locks_exclude(folder: Path) -> Any:
    put(folder / "file")
    with opened(folder / "file", os.O_RDWR) as one, opened(folder / "file", os.O_RDWR) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        first = said(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        open_file_lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)
        fcntl.fcntl(one, 37, open_file_lock)
        return first, said(fcntl.fcntl, two, 37, open_file_lock) in {"EAGAIN", "EACCES"}


@check
def syncing_is_possible_everywhere(folder: Path) -> Any:
    put(folder / "file")
    with opened(folder / "file", os.O_RDWR) as fd, opened(folder, os.O_RDONLY) as folder_fd:
        return [said(call, f) for f in (fd, folder_fd) for call in (os.fsync, os.fdatasync)]


# --- attributes --------------------------------------------------------------------------------


@check
def times_to_the_nanosecond(folder: Path) -> Any:
    put(folder / "file")
    os.symlink("nowhere", folder / "link")
    times = [(1, 2), (10**18 + 123456789, 10**18 + 987654321), (0, 0)]
    found = []
    for pair in times:
        os.utime(folder / "file", ns=pair)
        os.utime(folder / "link", ns=pair, follow_symlinks=False)
        for name in ("file", "link"):
            status = (folder / name).lstat()
            found.append((status.st_atime_ns, status.st_mtime_ns))
    return found


@check
def one_time_can_be_left_alone(folder: Path) -> Any:
    put(folder / "file")
    os.utime(folder / "file", ns=(5, 6))
    path = os.fsencode(folder / "file")
    omit, now = (1 << 30) - 2, (1 << 30) - 1
    _libc.utimensat(-100, path, struct.pack("qqqq", 0, omit, 0, 7), 0)
    first = (folder / "file").stat()
    _libc.utimensat(-100, path, struct.pack("qqqq", 0, now, 0, omit), 0)
    second = (folder / "file").stat()
    return (
        (first.st_atime_ns, first.st_mtime_ns),
        second.st_atime_ns > 10**18,
        second.st_mtime_ns,
    )


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

    return [
        moved(lambda: write(b"0123456789", 0)),
        moved(lambda: write(b"changed", 0)),
        moved(lambda: write(bytes(4096), 0)),
        moved(lambda: write(bytes(4096), 1 << 20)),
        moved(lambda: write(b"", 0)),
        moved(lambda: os.truncate(path, 5)),
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


# --- extended attributes and ACLs ----------------------------------------------------------------


@check
def extended_attributes(folder: Path) -> Any:
    path = put(folder / "file")
    (folder / "dir").mkdir()
    big = os.urandom(8) * 250
    return [
        said(os.setxattr, path, "user.a", b"1"),
        said(os.setxattr, path, "user.a", b"2", os.XATTR_CREATE),
        said(os.setxattr, path, "user.b", b"2", os.XATTR_REPLACE),
        said(os.setxattr, path, "user.b", b""),
        said(os.setxattr, path, "user.big", big),
        os.getxattr(path, "user.big") == big,
        said(os.getxattr, path, "user.a"),
        said(os.getxattr, path, "user.b"),
        said(os.getxattr, path, "user.none"),
        sorted(os.listxattr(path)),
        said(os.removexattr, path, "user.a"),
        said(os.removexattr, path, "user.a"),
        said(os.setxattr, folder / "dir", "user.d", b"\x00\xff"),
        said(os.getxattr, folder / "dir", "user.d"),
        said(os.setxattr, path, "nonsense", b"1"),
        said(os.setxattr, path, "user." + "n" * 300, b"1"),
    ]


@check
def privileged_attributes(folder: Path) -> Any:
    path = put(folder / "file")
    os.symlink("nowhere", folder / "link")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    return [
        said(os.setxattr, path, "trusted.t", b"1"),
        said(os.getxattr, path, "trusted.t"),
        said(os.setxattr, path, "security.capability", capability),
        said(os.getxattr, path, "security.capability"),
        said(os.setxattr, folder / "link", "trusted.t", b"1", follow_symlinks=False),
        said(os.setxattr, folder / "link", "user.t", b"1", follow_symlinks=False),
        as_user(lambda: os.getxattr(path, "trusted.t")),
        put(path, b"written") and said(os.getxattr, path, "security.capability"),
    ]


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
FOR_USER = acl((1, 7, NOBODY), (2, 6, USER), (4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))


@check
def access_lists_are_kept_and_enforced(folder: Path) -> Any:
    path = put(folder / "file")
    os.chmod(path, 0o600)
    os.chmod(folder, 0o755)
    refused = as_user(lambda: path.read_bytes())
    os.setxattr(path, "system.posix_acl_access", FOR_USER)
    granted = as_user(lambda: path.read_bytes())
    mode = seen(path)[0]
    os.chmod(path, 0o700)
    return (
        refused,
        granted,
        mode,
        as_user(lambda: path.read_bytes()),
        os.getxattr(path, "system.posix_acl_access"),
        said(os.removexattr, path, "system.posix_acl_access"),
        seen(path)[0],
    )


@check
def default_lists_are_inherited(folder: Path) -> Any:
    os.setxattr(folder, "system.posix_acl_default", FOR_USER)
    with umask(0):
        put(folder / "file")
        (folder / "dir").mkdir(0o750)
        os.mkfifo(folder / "fifo", 0o640)
    names = ("file", "dir", "fifo")
    return [
        (seen(folder / name)[0], said(os.getxattr, folder / name, "system.posix_acl_access"))
        for name in names
    ] + [said(os.getxattr, folder / "dir", "system.posix_acl_default")]


@check
def the_file_system_tells_its_limits(folder: Path) -> Any:
    status = os.statvfs(folder)
    return status.f_frsize, status.f_namemax, status.f_blocks > 0, status.f_files >= 0
