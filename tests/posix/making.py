"""Making and removing things of every kind."""

from __future__ import annotations

import os
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

from tests.posix.checks import check, check_rows, opened, put, said, seen, tree, umask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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


def refused(folder: Path, call: Callable[..., Any], *names: str) -> Any:
    """What a call says that the file system should refuse, and that it has left all as it was."""
    put(folder / "file")
    (folder / "dir").mkdir()
    os.symlink("loop", folder / "loop")
    before = tree(folder)
    return said(call, *(f"{folder}/{name}" for name in names)), tree(folder) == before


REFUSED = {
    "stat_of_a_missing_name": (os.stat, "none"),
    "stat_below_a_file": (os.stat, "file/x"),
    "stat_of_a_link_to_itself": (os.stat, "loop"),
    "stat_of_a_name_that_is_too_long": (os.stat, "n" * 256),
    "mkdir_over_a_file": (os.mkdir, "file"),
    "mkdir_in_a_missing_folder": (os.mkdir, "none/x"),
    "mkdir_of_a_name_that_is_too_long": (os.mkdir, "n" * 256),
    "rmdir_of_a_file": (os.rmdir, "file"),
    "rmdir_of_a_missing_folder": (os.rmdir, "none"),
    "rmdir_of_dot": (os.rmdir, "dir/."),
    "unlink_of_a_folder": (os.unlink, "dir"),
    "unlink_of_a_missing_file": (os.unlink, "none"),
    "symlink_over_a_file": (lambda path: os.symlink("x", path), "file"),
    "mkfifo_over_a_file": (os.mkfifo, "file"),
    "hard_link_of_a_folder": (os.link, "dir", "hard"),
    "link_over_a_folder": (os.link, "file", "dir"),
    "readlink_of_a_file": (os.readlink, "file"),
    "listdir_of_a_file": (os.listdir, "file"),
    "truncate_of_a_folder": (lambda path: os.truncate(path, 0), "dir"),
}
check_rows(REFUSED, refused)


@check
def mkdir_of_the_longest_name(folder: Path) -> Any:
    return said(os.mkdir, folder / ("n" * 255)), tree(folder)


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


def opened_with(folder: Path, name: str, flags: int) -> Any:
    """What open(2) says, and what it leaves."""
    put(folder / "file", b"0123456789")
    (folder / "dir").mkdir()
    os.symlink("file", folder / "link")
    os.symlink("nowhere", folder / "dangling")
    answer = said(os.open, folder / name, flags, 0o600)
    if isinstance(answer, int):
        os.close(answer)
        answer = os.stat(folder / name).st_size
    return answer, tree(folder)


OPENS = {
    "open_exclusively_what_is_there": ("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "open_exclusively_a_link": ("link", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "open_exclusively_a_dangling_link": ("dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "open_to_create_behind_a_dangling_link": ("dangling", os.O_CREAT | os.O_WRONLY),
    "open_nofollow_of_a_link": ("link", os.O_RDONLY | os.O_NOFOLLOW),
    "open_as_directory_of_a_file": ("file", os.O_RDONLY | os.O_DIRECTORY),
    "open_for_writing_of_a_folder": ("dir", os.O_WRONLY),
    "open_to_create_of_a_folder": ("dir", os.O_RDONLY | os.O_CREAT),
    "open_direct_of_a_file": ("file", os.O_RDWR | os.O_DIRECT),
    "open_sync_of_a_file": ("file", os.O_RDWR | os.O_SYNC),
    "open_to_truncate_for_reading": ("file", os.O_RDONLY | os.O_TRUNC),
    "open_to_truncate_a_new_file": ("new", os.O_RDWR | os.O_CREAT | os.O_TRUNC),
}
check_rows(OPENS, opened_with)


@check
def a_file_made_without_permission_can_still_be_written_by_its_maker(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0) as fd:
        written = os.write(fd, b"x")
        os.lseek(fd, 0, os.SEEK_SET)
        return written, os.read(fd, 10), seen(folder / "file")


@check
def special_files_keep_kind_and_device_number(folder: Path) -> Any:
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
def a_socket_takes_a_connection(folder: Path) -> Any:
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
