"""Damage as a disk does it: below the file system, which does not know."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING

from tests.commands import run

if TYPE_CHECKING:
    from pathlib import Path

# linux/fiemap.h
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQ2QL3L")
_SYNC = 1


def image_of(folder: Path) -> Path:
    """The image of the file system that the fixture `loop_fs` has made a folder in."""
    root = folder.parent
    return root.parent / f"{root.name}.img"


def place_of(path: Path, offset: int) -> int:
    """Where a byte of a file lies on its disk (ext4, xfs)."""
    with path.open("rb") as file:
        answer = bytearray(_FIEMAP.pack(offset, 1, _SYNC, 0, 1, 0) + bytes(_EXTENT.size))
        fcntl.ioctl(file, _FS_IOC_FIEMAP, answer)
    assert _FIEMAP.unpack_from(answer)[3] == 1, "a hole"
    logical, physical, *_ = _EXTENT.unpack_from(answer, _FIEMAP.size)
    return int(physical + offset - logical)


def drop_caches() -> None:
    """Let what is read next come from the disk."""
    run("sync")
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def rot(image: Path, path: Path, offset: int, is_cached: bool = False) -> None:
    """Flip a bit of a file, on the disk alone; what is cached of it stays so if `is_cached`."""
    place = place_of(path, offset)
    fd = os.open(image, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, place)[0]
        os.pwrite(fd, bytes([byte ^ 0x10]), place)
        os.fsync(fd)
    finally:
        os.close(fd)
    if not is_cached:
        drop_caches()


def rot_data(image: Path, data: bytes) -> None:
    """Flip a bit wherever a disk holds `data`, 4 KiB that are nowhere else, as on btrfs, whose
    places cannot be asked for.
    """
    run("sync")
    size = image.stat().st_size
    found = False
    fd = os.open(image, os.O_RDWR)
    try:
        place = 0
        while place < size:
            try:
                place = os.lseek(fd, place, os.SEEK_DATA)
            except OSError:
                break
            window = os.pread(fd, 1 << 20, place // 4096 * 4096)
            at = window.find(data)
            if at >= 0:
                os.pwrite(fd, bytes([data[0] ^ 0x10]), place // 4096 * 4096 + at)
                found = True
            place = place // 4096 * 4096 + len(window)
        os.fsync(fd)
    finally:
        os.close(fd)
    assert found
    drop_caches()
