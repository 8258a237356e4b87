"""Making and removing things of every kind."""

from __future__ import annotations

import os
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    pass

from tests.posix.checks import check, opened, put, said, seen, umask


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
