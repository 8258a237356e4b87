"""fallocate, holes, and copies made by the kernel, as a client sees them."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from tests.posix.checks import check, libc, opened, put, said

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32
HUGE = 1 << 62


def fallocate(fd: int, mode: int, offset: int, length: int) -> Any:
    if libc.fallocate(fd, mode, offset, length) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return os.fstat(fd).st_size


def borders(fd: int) -> list[int]:
    """Where data and holes begin in turn."""
    found, place = [], 0
    while True:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            try:
                place = os.lseek(fd, place, whence)
            except OSError:
                return found
            found.append(place)


@check
def ranges_are_punched_and_zeroed(folder: Path) -> Any:
    path = put(folder / "file", b"x" * 10 * BLOCK + b"tail")
    with opened(path, os.O_RDWR) as fd:
        return [
            said(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, BLOCK, 2 * BLOCK),
            borders(fd),
            said(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 5 * BLOCK - 100, 200),
            said(fallocate, fd, ZERO_RANGE, 7 * BLOCK + 1, 10),
            said(fallocate, fd, ZERO_RANGE | KEEP_SIZE, 10 * BLOCK, 9 * BLOCK),
            said(fallocate, fd, ZERO_RANGE, 10 * BLOCK + 2, 2 * BLOCK),
            said(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 100 * BLOCK, BLOCK),
            path.read_bytes(),
        ]


@check
def space_is_preallocated(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        return [
            said(fallocate, fd, 0, 0, 16 * BLOCK),
            os.fstat(fd).st_blocks >= 16 * BLOCK // 512,
            said(fallocate, fd, KEEP_SIZE, 16 * BLOCK, 16 * BLOCK),
            os.fstat(fd).st_blocks >= 32 * BLOCK // 512,
            said(os.posix_fallocate, fd, 20 * BLOCK, BLOCK),
            os.fstat(fd).st_size,
            borders(fd),
        ]


@check
def wrong_ranges_are_refused(folder: Path) -> Any:
    path = put(folder / "file", b"x" * 3 * BLOCK)
    os.mkfifo(folder / "fifo")
    with opened(path, os.O_RDWR) as fd, opened(path, os.O_RDONLY) as reader:
        with opened(folder, os.O_RDONLY) as folder_fd:
            refused = [said(fallocate, folder_fd, 0, 0, 1)]
        refused += [
            said(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, -1, 10),
            said(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 0, 0),
            said(fallocate, fd, PUNCH_HOLE, 0, BLOCK),
            said(fallocate, fd, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, BLOCK),
            said(fallocate, fd, 0, HUGE, HUGE),
            said(fallocate, reader, PUNCH_HOLE | KEEP_SIZE, 0, BLOCK),
            said(fallocate, reader, 0, 0, BLOCK),
        ]
        return refused, path.read_bytes() == b"x" * 3 * BLOCK


@check
def truncation_to_the_size_it_has_frees_what_lies_beyond(folder: Path) -> Any:
    with opened(put(folder / "file", b"x" * 10 * BLOCK), os.O_RDWR) as fd:
        done = said(fallocate, fd, KEEP_SIZE, 10 * BLOCK, 100 * BLOCK)
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        os.ftruncate(fd, 10 * BLOCK)
        os.fsync(fd)
        return done, before - os.fstat(fd).st_blocks >= 100 * BLOCK // 512


@check
def data_and_holes_are_found(folder: Path) -> Any:
    with opened(folder / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"x" * BLOCK, 4 * BLOCK)
        os.pwrite(fd, b"x" * BLOCK, 64 * BLOCK)
        os.ftruncate(fd, 100 * BLOCK + 7)
        seeks = [
            said(os.lseek, fd, place, whence)
            for place in (0, 1, 4 * BLOCK, 5 * BLOCK, 99 * BLOCK, 100 * BLOCK + 7, HUGE, -1)
            for whence in (os.SEEK_DATA, os.SEEK_HOLE)
        ]
        return seeks, said(os.lseek, fd, 0, 9)


@check
def an_empty_file_has_neither(folder: Path) -> Any:
    with opened(put(folder / "file", b""), os.O_RDONLY) as fd:
        return said(os.lseek, fd, 0, os.SEEK_DATA), said(os.lseek, fd, 0, os.SEEK_HOLE)


@check
def the_kernel_copies_ranges(folder: Path) -> Any:
    source = put(folder / "source", b"a" * BLOCK + bytes(6 * BLOCK) + b"z" * 5000)
    target = put(folder / "target", b"t" * 20 * BLOCK)
    size = source.stat().st_size

    def copy(source_fd: int, target_fd: int, size: int, start: int, offset: int) -> int:
        """Until nothing is left: one call may copy less than it is asked for."""
        done = 0
        while count := os.copy_file_range(
            source_fd, target_fd, size - done, start + done, offset + done
        ):
            done += count
        return done

    with opened(source, os.O_RDONLY) as reading, opened(target, os.O_RDWR) as writing:
        counts = [
            said(copy, reading, writing, size, 0, 0),
            said(copy, reading, writing, 3 * BLOCK, BLOCK - 1, 9 * BLOCK + 7),
            said(copy, reading, writing, 10 * BLOCK, size - 10, 30 * BLOCK),
            said(copy, reading, writing, 10, size, 0),
            said(copy, reading, writing, 10, size + 10, 0),
            said(copy, reading, writing, 0, 0, 0),
            said(copy, writing, writing, BLOCK, 0, 40 * BLOCK),
            said(copy, writing, writing, 2 * BLOCK, 0, BLOCK),
            said(copy, writing, reading, BLOCK, 0, 0),
        ]
        with opened(target, os.O_WRONLY) as blind, opened(target, os.O_RDWR | os.O_APPEND) as end:
            counts += [
                said(copy, blind, writing, BLOCK, 0, 50 * BLOCK),
                said(copy, reading, end, BLOCK, 0, 0),
            ]
        return counts, target.read_bytes()


@check
def a_write_that_fails_leaves_the_size(folder: Path) -> Any:
    fd = os.open(folder / "file", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x", 0)
    answer = said(os.pwrite, fd, b"x" * 8192, (1 << 44) - BLOCK)
    size = os.fstat(fd).st_size
    said(os.close, fd)  # where the mount tells of the failed write once more
    return answer, size if isinstance(answer, str) else None
