"""The old file is read ahead of a client that writes it in order, and of no other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror.read_ahead import WINDOW_BYTES, ReadAhead

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
STEP = 256 * KIB


class Target:
    """A file of 4 MiB of data, a hole of 1 GiB, and 64 MiB of data; `requested` is what the kernel
    was to read.
    """

    def __init__(self, folder: Path) -> None:
        self.fd = os.open(folder / "image", os.O_RDWR | os.O_CREAT)
        for offset in [*range(4), *range(1028, 1092)]:
            os.pwrite(self.fd, b"x" * MIB, offset * MIB)
        os.fsync(self.fd)
        self.ahead = ReadAhead()
        self.requested: list[tuple[int, int]] = []

    def write(self, start: int, end: int) -> bool:
        """Whether that made it read ahead."""
        if not self.ahead.note(start, end):
            return False
        self.ahead.read(os.dup(self.fd), is_seek_trusted=True)
        return True

    @property
    def requested_bytes(self) -> int:
        return sum(end - start for start, end in self.requested)


@pytest.fixture
def target(loop_fs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    made = Target(loop_fs)
    advise = os.posix_fadvise

    def note(fd: int, offset: int, length: int, advice: int) -> None:
        advise(fd, offset, length, advice)
        if advice == os.POSIX_FADV_WILLNEED:
            made.requested.append((offset, offset + length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    yield made
    os.close(made.fd)


def test_what_comes_next_is_requested_once_and_holes_are_passed_over(target: Target) -> None:
    end = 1092 * MIB
    for start in range(0, end, STEP):
        target.write(start, start + STEP)
        if start > 4 * STEP:
            position = start + STEP
            left = sum(max(0, b - max(a, position)) for a, b in target.requested)
            still = sum(max(0, b - max(a, position)) for a, b in [(0, 4 * MIB), (1028 * MIB, end)])
            assert left >= min(still, WINDOW_BYTES // 2) - STEP
            assert left <= WINDOW_BYTES
    assert target.requested == sorted(target.requested)
    assert target.requested_bytes == 68 * MIB - 3 * STEP
    assert all(a[1] <= b[0] for a, b in zip(target.requested, target.requested[1:], strict=False))


def test_what_was_requested_is_really_in_the_page_cache(target: Target) -> None:
    os.posix_fadvise(target.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for start in range(0, MIB, STEP):
        target.write(start, start + STEP)
    # Reading sees what was requested, at the latest when it has arrived.
    for start, end in target.requested:
        assert os.pread(target.fd, end - start, start) == b"x" * (end - start)
        os.preadv(target.fd, [bytearray(end - start)], start, os.RWF_NOWAIT)


def test_a_client_that_skips_zeros_still_goes_forward(target: Target) -> None:
    for start in (0, STEP, 2 * STEP, 3 * STEP):
        target.write(start, start + STEP)
    assert target.requested_bytes == WINDOW_BYTES
    count = len(target.requested)
    target.write(1028 * MIB, 1028 * MIB + 10 * MIB)
    assert len(target.requested) > count


@pytest.mark.parametrize(
    "starts", [[5, 3, 9, 1, 7, 2, 60], [9, 8, 7, 6, 5, 4, 3], [0, 1], [0, 1, 0, 1, 0, 1]]
)
def test_a_client_that_jumps_about_is_left_alone(target: Target, starts: list[int]) -> None:
    assert not any(target.write(start * STEP, (start + 1) * STEP) for start in starts)
    assert not target.requested


def test_at_the_end_nothing_more_is_requested(target: Target) -> None:
    for start in range(1080 * MIB, 1092 * MIB, STEP):
        target.write(start, start + STEP)
    count = len(target.requested)
    assert not any(target.write(1092 * MIB + i * STEP, 1093 * MIB + i * STEP) for i in range(9))
    assert len(target.requested) == count


def test_a_read_that_fails_is_not_tried_again_and_leaves_no_descriptor(target: Target) -> None:
    for start in (0, STEP, 2 * STEP):
        wanted = target.ahead.note(start, start + STEP)
    assert wanted
    read_end, write_end = os.pipe()
    os.close(write_end)
    target.ahead.read(read_end, is_seek_trusted=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_end)
    assert not target.write(3 * STEP, 4 * STEP)


def test_seeks_leave_the_descriptor_of_the_main_loop_alone(target: Target) -> None:
    """The kernel locks a position while it seeks, and a duplicate has the same."""
    os.lseek(target.fd, 7, os.SEEK_SET)
    assert any(target.write(start * STEP, (start + 1) * STEP) for start in range(3))
    assert os.lseek(target.fd, 0, os.SEEK_CUR) == 7


def test_reading_ahead_that_was_put_off_is_tried_again() -> None:
    ahead = ReadAhead()
    assert [ahead.note(place * 4096, (place + 1) * 4096) for place in range(3)][-1]
    ahead.not_now()
    assert ahead.note(3 * 4096, 4 * 4096)
