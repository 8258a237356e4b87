"""Whatever one request runs into, the mount lives and answers the next one."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import pytest

from mirrorfs.fuse.operations import table
from tests.commands import wait_for
from tests.faults.driver import EXCEPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.conftest import FaultyMirror


def _open_and(action: Callable[[int], object], flags: int = os.O_RDWR) -> Callable[[Path], None]:
    def call(folder: Path) -> None:
        fd = os.open(folder / "file", flags)
        try:
            action(fd)
        finally:
            os.close(fd)

    return call


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


CALLS: dict[str, Callable[[Path], object]] = {
    "lookup": lambda folder: os.stat(folder / "file"),
    "getattr": lambda folder: os.stat(folder / "file"),
    "readlink": lambda folder: os.readlink(folder / "link"),
    "opendir": os.listdir,
    "readdir": os.listdir,
    "releasedir": os.listdir,
    "fsyncdir": _sync_folder,
    "mknod": lambda folder: os.mkfifo(folder / "fifo"),
    "mkdir": lambda folder: os.mkdir(folder / "new"),
    "symlink": lambda folder: os.symlink("x", folder / "new"),
    "link": lambda folder: os.link(folder / "file", folder / "new"),
    "unlink": lambda folder: os.unlink(folder / "file"),
    "rmdir": lambda folder: os.rmdir(folder / "sub"),
    "rename": lambda folder: os.rename(folder / "file", folder / "new"),
    "statfs": os.statvfs,
    "getxattr": lambda folder: os.getxattr(folder / "file", "user.a"),
    "listxattr": lambda folder: os.listxattr(folder / "file"),
    "setxattr": lambda folder: os.setxattr(folder / "file", "user.a", b"2"),
    "removexattr": lambda folder: os.removexattr(folder / "file", "user.a"),
    "open": _open_and(lambda fd: fd),
    "create": lambda folder: os.close(os.open(folder / "new", os.O_CREAT | os.O_WRONLY)),
    "read": _open_and(lambda fd: os.read(fd, 10)),
    "write": _open_and(lambda fd: os.write(fd, b"xyz")),
    "setattr": lambda folder: os.chmod(folder / "file", 0o600),
    "flush": _open_and(lambda fd: fd),
    "fsync": _open_and(os.fsync),
    "release": _open_and(lambda fd: fd),
    "fallocate": _open_and(lambda fd: os.posix_fallocate(fd, 0, 4096)),
    "lseek": _open_and(lambda fd: os.lseek(fd, 0, os.SEEK_DATA)),
    "copy_file_range": _open_and(lambda fd: os.copy_file_range(fd, fd, 3, 0, 4096)),
    "forget": lambda folder: os.unlink(folder / "file"),
}
SILENT = {"release", "releasedir", "forget"}
KNOWN = {
    "OSError": errno.EDOM,
    "PermissionError": errno.EDOM,
    "MemoryError": errno.ENOMEM,
}


@pytest.fixture
def folder(shared_faulty: FaultyMirror) -> Path:
    """The mount of a daemon that runs until all handlers have failed in every way, with one thing
    of each kind in it.
    """
    shared_faulty.order()
    path = shared_faulty.path
    for left in ("file", "new", "fifo", "link"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(path / left)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path / "new")
    (path / "sub").mkdir(exist_ok=True)
    shared_faulty.write("file", 0, b"content")
    os.symlink("target", path / "link")
    os.setxattr(path / "file", "user.a", b"1")
    return path


def errors(faulty: FaultyMirror) -> int:
    return sum(faulty.stats()["counters"]["errors"].values())


def check_failure(faulty: FaultyMirror, place: str, name: str, kind: str) -> None:
    """The injected exception is answered with its errno, and the same daemon goes on serving."""
    counted = errors(faulty)
    faulty.order(f"{place} {name} {kind}")
    if name in SILENT:  # no client waits for the answer, but the error is counted
        CALLS[name](faulty.path)
        wait_for(lambda: errors(faulty) > counted)
    else:
        with pytest.raises(OSError) as caught:
            CALLS[name](faulty.path)
        assert caught.value.errno == KNOWN.get(kind, errno.EIO)
    assert faulty.alive
    faulty.order()
    faulty.write("after", 0, b"still here")
    assert faulty.read("after") == b"still here"
    assert faulty.pid == faulty.daemon.pid


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", list(EXCEPTIONS))
@pytest.mark.parametrize("name", list(CALLS))
def test_handler_that_raises_leaves_the_mount_alive(
    shared_faulty: FaultyMirror, name: str, kind: str
) -> None:
    check_failure(shared_faulty, "handler", name, kind)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", list(EXCEPTIONS))
@pytest.mark.parametrize("name", list(CALLS))
def test_a_message_that_cannot_be_decoded_leaves_the_mount_alive(
    shared_faulty: FaultyMirror, name: str, kind: str
) -> None:
    check_failure(shared_faulty, "decode", name, kind)


def test_calls_try_every_handler() -> None:
    assert {row.name for row in table(MagicMock()).values()} == set(CALLS)
