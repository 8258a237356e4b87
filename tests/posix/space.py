"""fallocate, holes, and copies made by the kernel, as a client sees them."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from tests.posix.checks import (
    EXTENSION,
    ZEROED_RANGES,
    check,
    check_rows,
    check_that_needs,
    libc,
    opened,
    put,
    said,
)

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
    found: list[int] = []
    place = 0
    while True:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            try:
                place = os.lseek(fd, place, whence)
            except OSError:
                return found
            found.append(place)


@check_that_needs(EXTENSION, ZEROED_RANGES)
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


@check_that_needs(EXTENSION)
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


def refused_range(folder: Path, flags: int, mode: int, offset: int, length: int) -> Any:
    path = put(folder / "file", b"x" * 3 * BLOCK)
    with opened(path, flags) as fd:
        return said(fallocate, fd, mode, offset, length), path.read_bytes() == b"x" * 3 * BLOCK


PUNCH = PUNCH_HOLE | KEEP_SIZE
REFUSED = {
    "fallocate_before_the_beginning": (os.O_RDWR, PUNCH, -1, 10),
    "fallocate_of_nothing": (os.O_RDWR, PUNCH, 0, 0),
    "fallocate_to_punch_that_must_keep_the_size": (os.O_RDWR, PUNCH_HOLE, 0, BLOCK),
    "fallocate_to_punch_and_zero": (os.O_RDWR, PUNCH | ZERO_RANGE, 0, BLOCK),
    "fallocate_beyond_all_sizes": (os.O_RDWR, 0, HUGE, HUGE),
    "fallocate_to_punch_by_a_reader": (os.O_RDONLY, PUNCH, 0, BLOCK),
    "fallocate_by_a_reader": (os.O_RDONLY, 0, 0, BLOCK),
}
check_rows(REFUSED, refused_range)


@check
def fallocate_of_a_folder(folder: Path) -> Any:
    with opened(folder, os.O_RDONLY) as fd:
        return said(fallocate, fd, 0, 0, 1)


@check_that_needs(EXTENSION)
def truncation_to_the_size_it_has_frees_what_lies_beyond(folder: Path) -> Any:
    with opened(put(folder / "file", b"x" * 10 * BLOCK), os.O_RDWR) as fd:
        done = said(fallocate, fd, KEEP_SIZE, 10 * BLOCK, 100 * BLOCK)
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        os.ftruncate(fd, 10 * BLOCK)
        os.fsync(fd)
        return done, before - os.fstat(fd).st_blocks >= 100 * BLOCK // 512


@check_that_needs(EXTENSION)
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
def an_empty_file_has_neither_data_nor_hole(folder: Path) -> Any:
    with opened(put(folder / "file", b""), os.O_RDONLY) as fd:
        return said(os.lseek, fd, 0, os.SEEK_DATA), said(os.lseek, fd, 0, os.SEEK_HOLE)


def copied(folder: Path, names: str, length: int, start: int, offset: int) -> Any:
    """What a copy by the kernel says, and what it leaves. `names` are those of the two descriptors:
    the source's; and the target's own, one that cannot read it, and one that appends to it.
    """
    source = put(folder / "source", COPIED)
    target = put(folder / "target", b"t" * 20 * BLOCK)

    def copy(source_fd: int, target_fd: int) -> int:
        """Until nothing is left: one call may copy less than all."""
        done = 0
        while count := os.copy_file_range(
            source_fd, target_fd, length - done, start + done, offset + done
        ):
            done += count
        return done

    with (
        opened(source, os.O_RDONLY) as reading,
        opened(target, os.O_RDWR) as writing,
        opened(target, os.O_WRONLY) as blind,
        opened(target, os.O_RDWR | os.O_APPEND) as appending,
    ):
        fds = {"source": reading, "target": writing, "blind": blind, "appending": appending}
        one, other = names.split()
        return said(copy, fds[one], fds[other]), target.read_bytes(), source.read_bytes() == COPIED


COPIED = b"a" * BLOCK + bytes(6 * BLOCK) + b"z" * 5000
SIZE = len(COPIED)
COPIES = {
    "copy_range_of_a_whole_file": ("source target", SIZE, 0, 0),
    "copy_range_at_odd_offsets": ("source target", 3 * BLOCK, BLOCK - 1, 9 * BLOCK + 7),
    "copy_range_over_the_end_of_the_source": ("source target", 10 * BLOCK, SIZE - 10, 30 * BLOCK),
    "copy_range_at_the_end_of_the_source": ("source target", 10, SIZE, 0),
    "copy_range_beyond_the_end_of_the_source": ("source target", 10, SIZE + 10, 0),
    "copy_range_of_nothing": ("source target", 0, 0, 0),
    "copy_range_within_a_file": ("target target", BLOCK, 0, 40 * BLOCK),
    "copy_range_onto_itself": ("target target", 2 * BLOCK, 0, BLOCK),
    "copy_range_into_a_reader": ("target source", BLOCK, 0, 0),
    "copy_range_from_a_blind_writer": ("blind target", BLOCK, 0, 50 * BLOCK),
    "copy_range_into_an_appender": ("source appending", BLOCK, 0, 0),
}
check_rows(COPIES, copied)


@check
def a_write_that_fails_leaves_the_size(folder: Path) -> Any:
    fd = os.open(folder / "file", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x", 0)
    answer = said(os.pwrite, fd, b"x" * 8192, (1 << 44) - BLOCK)
    size = os.fstat(fd).st_size
    said(os.close, fd)  # at which the mount reports the failed write once more
    return answer, size if isinstance(answer, str) else None
