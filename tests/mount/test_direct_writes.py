"""Files that can only be written are written past the mount's page cache, which no client sees."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from tests.posix.checks import CAPABILITY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

BLOCK = 4096
MIB = 1 << 20


@pytest.mark.parametrize("option", ["auto", "off"])
def test_a_direct_write_is_cached_below_alone(
    loop_fs: Path, mount_mirror: Callable[..., Mirror], option: str
) -> None:
    mirror = mount_mirror(loop_fs, f"direct_writes={option}")
    found = json.loads((mirror.path / ".mirrorfs/config.json").read_text())
    assert found["extras"]["direct_writes"]["on"] == (option == "auto")
    data = os.urandom(MIB)
    fd = os.open(mirror.path / "image", os.O_WRONLY | os.O_CREAT)
    os.write(fd, data)
    assert cached_bytes(fd) == (0 if option == "auto" else MIB)
    os.close(fd)
    assert mirror.read("image") == data
    assert (mirror.backing / "image").read_bytes() == data


def cached_bytes(fd: int, dirty: bool = False) -> int:
    """cachestat(2), which the C library does not know yet."""
    whole, found = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)()
    assert ctypes.CDLL(None).syscall(451, fd, whole, found, 0) == 0
    return found[1 if dirty else 0] * BLOCK


def test_a_direct_write_is_seen_by_reading_and_in_a_mapping(mirror: Mirror) -> None:
    path = mirror.path / "image"
    path.write_bytes(bytes(MIB))
    with path.open("rb", buffering=0) as reading, path.open("r+b", buffering=0) as both:
        mapped = mmap.mmap(reading.fileno(), MIB, prot=mmap.PROT_READ)
        assert not any(mapped[:])
        writing = os.open(path, os.O_WRONLY)
        for number in range(1, 300):
            offset = number * 3001
            piece = os.urandom(number * 7)
            os.pwrite(writing, piece, offset)
            end = offset + len(piece)
            assert mapped[offset:end] == piece
            assert os.pread(reading.fileno(), len(piece), offset) == piece
            assert os.pread(both.fileno(), len(piece), offset) == piece
        os.close(writing)
        mapped.close()


def test_stores_in_a_mapping_and_writes_to_the_same_page_keep_each_other(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder)
    path = mirror.path / "image"
    path.write_bytes(bytes(BLOCK))
    both = os.open(path, os.O_RDWR)
    with mmap.mmap(both, BLOCK) as mapped:
        writing = os.open(path, os.O_WRONLY)
        child = os.fork()
        if child == 0:
            while True:
                mapped[0] = (mapped[0] + 1) % 256
        try:
            for number in range(1, 300):
                stamp = number.to_bytes(8, "big")
                os.pwrite(writing, stamp, 2000)
                assert os.pread(both, 8, 2000) == stamp
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(writing)
    os.close(both)
    assert mirror.read("image")[2000:2008] == stamp


def test_a_file_that_is_written_directly_cannot_be_mapped_for_writing(mirror: Mirror) -> None:
    path = mirror.path / "image"
    path.write_bytes(bytes(MIB))
    writing = os.open(path, os.O_WRONLY)
    both = os.open(path, os.O_RDWR)
    with pytest.raises(OSError, match="No such device"):
        mmap.mmap(both, MIB)
    mmap.mmap(both, MIB, flags=mmap.MAP_PRIVATE).close()
    os.pwrite(both, b"both", 10)
    assert os.pread(both, 4, 10) == b"both"
    os.close(both)
    os.close(writing)
    os.statvfs(mirror.path)  # the kernel sends the release a moment later, but in order
    with path.open("r+b") as later, mmap.mmap(later.fileno(), MIB) as mapped:
        mapped[:4] = b"late"
    assert mirror.read("image")[:14] == b"late" + bytes(6) + b"both"


def test_a_copy_under_a_temporary_name_is_written_directly_until_it_is_closed(
    mirror: Mirror,
) -> None:
    data = os.urandom(MIB)
    temporary = mirror.path / ".image.x9Y2ab"
    both = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(both, data)
    assert cached_bytes(both) == 0
    assert os.pread(both, BLOCK, 10) == data[10 : 10 + BLOCK]
    with pytest.raises(OSError, match="No such device"):
        mmap.mmap(both, MIB)
    os.close(both)
    temporary.rename(mirror.path / "image")
    with (mirror.path / "image").open("r+b") as later, mmap.mmap(later.fileno(), MIB) as mapped:
        assert mapped[:] == data


@pytest.mark.parametrize("name", ["image", ".image.x9Y2abc", "image.x9Y2ab"])
def test_a_new_file_by_another_name_can_be_mapped(mirror: Mirror, name: str) -> None:
    both = os.open(mirror.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(both, MIB)
    with mmap.mmap(both, MIB) as mapped:
        mapped[:5] = b"first"
    os.close(both)
    assert mirror.read(name)[:5] == b"first"


@pytest.mark.parametrize("option", ["sync", "auto"])
def test_a_mount_with_sync_has_every_write_on_the_disk(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], option: str
) -> None:
    words = "sync" if option == "sync" else "direct_writes=auto"
    mirror = mount_mirror(ext4_folder, words)
    writing = os.open(mirror.path / "file", os.O_WRONLY | os.O_CREAT)
    os.write(writing, os.urandom(MIB))
    with (mirror.backing / "file").open("rb") as below:
        assert (cached_bytes(below.fileno(), dirty=True) == 0) is (option == "sync")
    os.pwritev(writing, [os.urandom(MIB)], 0, os.RWF_SYNC)
    with (mirror.backing / "file").open("rb") as below:
        assert cached_bytes(below.fileno(), dirty=True) == 0
    os.close(writing)


def test_a_write_of_equal_data_takes_the_capability_of_a_program(mirror: Mirror) -> None:
    path = mirror.path / "program"
    path.write_bytes(b"same" * BLOCK)
    os.setxattr(path, "security.capability", CAPABILITY)
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"same" * BLOCK)
    os.write(fd, b"same" * BLOCK)
    os.close(fd)
    assert "security.capability" not in os.listxattr(path)


def test_a_write_of_equal_data_takes_a_capability_that_was_set_while_the_file_was_open(
    mirror: Mirror,
) -> None:
    path, twice = mirror.path / "program", b"same" * BLOCK
    path.write_bytes(twice)
    fd = os.open(path, os.O_WRONLY)
    for _ in range(2):  # so that nothing is left to be done at the next
        os.pwrite(fd, twice, 0)
    for number in range(3):
        capability = struct.pack("<IIIII", 0x02000001, 1 << number, 0, 0, 0)
        os.setxattr(path, "security.capability", capability)
        os.pwrite(fd, twice, 0)
        assert "security.capability" not in os.listxattr(path)
    os.close(fd)


def test_a_write_of_equal_data_moves_times_that_a_client_has_observed(mirror: Mirror) -> None:
    """As below, where the kernel gives a finer time to a file whose times were observed."""

    def moved(folder: Path) -> int:
        path, data = folder / f"in-{folder.name}", os.urandom(2 * BLOCK)
        path.write_bytes(data)
        fd = os.open(path, os.O_WRONLY)
        count = 0
        for _ in range(200):
            before = os.fstat(fd)
            os.pwrite(fd, data, 0)
            after = os.fstat(fd)
            count += (
                after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
            )
        os.close(fd)
        return count

    below = moved(mirror.backing)
    assert moved(mirror.path) >= below


def test_readers_without_a_pause_do_not_keep_old_data_in_the_cache(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """They read into the cache what is being replaced at that moment."""
    mirror = mount_mirror(ext4_folder)
    path = mirror.path / "image"
    path.write_bytes(bytes(4 * BLOCK))
    done = threading.Event()

    def read_on() -> None:
        fd = os.open(path, os.O_RDONLY)
        while not done.is_set():
            os.pread(fd, 4 * BLOCK, 0)
        os.close(fd)

    readers = [threading.Thread(target=read_on) for _ in range(2)]
    for reader in readers:
        reader.start()
    writing, reading = os.open(path, os.O_WRONLY), os.open(path, os.O_RDONLY)
    try:
        for number in range(2000):
            stamp = number.to_bytes(8, "big") * (BLOCK // 8) * 3
            os.pwrite(writing, stamp, 100)
            assert os.pread(reading, len(stamp), 100) == stamp
    finally:
        done.set()
        for reader in readers:
            reader.join()
        os.close(writing)
        os.close(reading)


def test_a_direct_append_goes_to_the_end_below(mirror: Mirror) -> None:
    path = mirror.path / "log"
    path.write_bytes(b"one\n")
    appending = os.open(path, os.O_WRONLY | os.O_APPEND)
    with (mirror.backing / "log").open("ab") as beside:
        beside.write(b"two\n")
    os.write(appending, b"three\n")
    os.close(appending)
    assert (mirror.backing / "log").read_bytes() == b"one\ntwo\nthree\n"
