"""The old file is read ahead of a writer that goes forward, and of no other."""

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
    """A file of 4 MiB of data, a hole of 1 GiB, and 64 MiB of data; `asked` is what the kernel was
    told to read.
    """

    def __init__(self, folder: Path) -> None:
        self.fd = os.open(folder / "image", os.O_RDWR | os.O_CREAT)
        for offset in [*range(4), *range(1028, 1092)]:
            os.pwrite(self.fd, b"x" * MIB, offset * MIB)
        os.fsync(self.fd)
        self.ahead = ReadAhead()
        self.asked: list[tuple[int, int]] = []

    def write(self, start: int, end: int) -> bool:
        """Whether that made the reader read."""
        if not self.ahead.note(start, end):
            return False
        self.ahead.read(os.dup(self.fd), is_seek_trusted=True)
        return True

    @property
    def asked_bytes(self) -> int:
        return sum(end - start for start, end in self.asked)


@pytest.fixture
def target(loop_fs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    made = Target(loop_fs)
    advise = os.posix_fadvise

    def note(fd: int, offset: int, length: int, advice: int) -> None:
        advise(fd, offset, length, advice)
        if advice == os.POSIX_FADV_WILLNEED:
            made.asked.append((offset, offset + length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    yield made
    os.close(made.fd)


def test_what_comes_next_is_asked_for_once_and_holes_are_passed_over(target: Target) -> None:
    end = 1092 * MIB
    for start in range(0, end, STEP):
        target.write(start, start + STEP)
        if start > 4 * STEP:
            position = start + STEP
            left = sum(max(0, b - max(a, position)) for a, b in target.asked)
            still = sum(max(0, b - max(a, position)) for a, b in [(0, 4 * MIB), (1028 * MIB, end)])
            assert left >= min(still, WINDOW_BYTES // 2) - STEP
            assert left <= WINDOW_BYTES
    assert target.asked == sorted(target.asked)
    assert target.asked_bytes == 68 * MIB - 3 * STEP
    assert all(a[1] <= b[0] for a, b in zip(target.asked, target.asked[1:], strict=False))


def test_it_is_really_in_the_page_cache(target: Target) -> None:
    os.posix_fadvise(target.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for start in range(0, MIB, STEP):
        target.write(start, start + STEP)
    # Reading sees what the kernel was asked for, at the latest when it has arrived.
    for start, end in target.asked:
        assert os.pread(target.fd, end - start, start) == b"x" * (end - start)
        os.preadv(target.fd, [bytearray(end - start)], start, os.RWF_NOWAIT)


def test_a_writer_who_skips_zeros_still_goes_forward(target: Target) -> None:
    for start in (0, STEP, 2 * STEP, 3 * STEP):
        target.write(start, start + STEP)
    assert target.asked_bytes == WINDOW_BYTES
    count = len(target.asked)
    target.write(1028 * MIB, 1028 * MIB + 10 * MIB)
    assert len(target.asked) > count


@pytest.mark.parametrize(
    "starts", [[5, 3, 9, 1, 7, 2, 60], [9, 8, 7, 6, 5, 4, 3], [0, 1], [0, 1, 0, 1, 0, 1]]
)
def test_a_writer_who_jumps_about_is_left_alone(target: Target, starts: list[int]) -> None:
    assert not any(target.write(start * STEP, (start + 1) * STEP) for start in starts)
    assert not target.asked


def test_at_the_end_nobody_asks_any_more(target: Target) -> None:
    for start in range(1080 * MIB, 1092 * MIB, STEP):
        target.write(start, start + STEP)
    count = len(target.asked)
    assert not any(target.write(1092 * MIB + i * STEP, 1093 * MIB + i * STEP) for i in range(9))
    assert len(target.asked) == count


def test_what_fails_is_not_tried_again_and_leaves_no_descriptor(target: Target) -> None:
    for start in (0, STEP, 2 * STEP):
        wanted = target.ahead.note(start, start + STEP)
    assert wanted
    read_end, write_end = os.pipe()
    os.close(write_end)
    target.ahead.read(read_end, is_seek_trusted=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_end)
    assert not target.write(3 * STEP, 4 * STEP)


def test_seeks_lock_nothing_that_the_main_loop_uses(target: Target) -> None:
    """The kernel locks a position while it seeks, and a duplicate has the same."""
    os.lseek(target.fd, 7, os.SEEK_SET)
    assert any(target.write(start * STEP, (start + 1) * STEP) for start in range(3))
    assert os.lseek(target.fd, 0, os.SEEK_CUR) == 7


def test_too_many_descriptors_only_put_it_off() -> None:
    ahead = ReadAhead()
    assert [ahead.note(place * 4096, (place + 1) * 4096) for place in range(3)][-1]
    ahead.not_now()
    assert ahead.note(3 * 4096, 4 * 4096)
