"""What clients see of a file that has a tail: a real file of each file system, and a bytearray."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrorfs.backing import holes, syscalls
from mirrorfs.backing.progress_table import ProgressTable
from mirrorfs.backing.statx import statx
from mirrorfs.mirror.stale_tail import StaleTail, visible
from mirrorfs.mirror.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirrorfs.backing.recovery_list import RecoveryList

BLOCK = 4096
BLOCKS = 24
BIG = BLOCKS * BLOCK

places = st.integers(0, BLOCKS).map(lambda n: n * BLOCK) | st.integers(0, BIG)
lengths = st.integers(0, 8).map(lambda n: n * BLOCK) | st.integers(0, BIG * 2)


def made_tail(frontier: int, size: int, hidden_bytes: int = 0) -> StaleTail:
    return StaleTail(
        frontier,
        size,
        False,
        hidden_bytes,
        1,
        -1,
        cast("RecoveryList", None),  # which is for what is written
        ProgressTable("nobody"),
        b"inst",
        b"file",
        0,
        0.0,
    )


def seek(tail: StaleTail, fd: int, offset: int, whence: int, trusted: bool) -> int | None:
    """None where it is ENXIO."""
    try:
        return View(fd, trusted, tail).seek(offset, whence)
    except OSError as exc:
        assert exc.errno == errno.ENXIO
        return None


@pytest.fixture
def old_file(loop_fs: Path) -> Iterator[int]:
    """Data in all blocks but for those with an odd number in the first half."""
    fd = os.open(loop_fs / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"\xa5" * BIG, 0)
    for number in range(1, BLOCKS // 2, 2):
        syscalls.punch_hole(fd, number * BLOCK, (number + 1) * BLOCK)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("trusted", [True, False])
def test_reads_and_seeks_agree_with_a_bytearray(old_file: int, trusted: bool) -> None:
    below = os.pread(old_file, BIG, 0)
    assert len(below) == BIG

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        frontier=places,
        more=lengths,
        gap=st.none() | st.tuples(places, places),
        asked=st.lists(st.tuples(places, lengths), max_size=8),
    )
    def check(
        frontier: int, more: int, gap: tuple[int, int] | None, asked: list[tuple[int, int]]
    ) -> None:
        tail = made_tail(frontier, frontier + more)
        model = below[:frontier] + bytes(more)
        if gap is not None and gap[0] < gap[1] < frontier:
            tail.gap = gap
            model = model[: gap[0]] + bytes(gap[1] - gap[0]) + model[gap[1] :]
        assert View(old_file, trusted, tail).read(0, len(model) + BLOCK) == model
        for offset, length in [*asked, (len(model), 1), (len(model) + 1, BLOCK)]:
            got = View(old_file, trusted, tail).read(offset, length)
            assert got == model[offset : offset + length]
            check_seeks(tail, offset)

    def check_seeks(tail: StaleTail, offset: int) -> None:
        data = seek(tail, old_file, offset, os.SEEK_DATA, trusted)
        hole = seek(tail, old_file, offset, os.SEEK_HOLE, trusted)
        if offset >= tail.size:
            assert data is hole is None
            return
        # As a file that ends at the frontier answers, with a hole from there to its size, and one
        # that is the gap.
        found = list(holes.data_ranges(old_file, 0, tail.frontier))
        if not trusted:
            found = [(0, tail.frontier)]
        first, last = tail.gap or (0, 0)
        around = [
            part
            for start, end in found
            for part in ((start, min(end, first)), (max(start, last), end))
        ]
        alone = [(start, end) for start, end in around if start < end > offset]
        if not alone:
            assert (data, hole) == (None, offset)
            return
        start, end = alone[0]
        assert data == max(start, offset)
        assert hole == (offset if offset < start else end)

    check()


def test_a_failed_seek_tells_nothing_of_the_old_blocks(old_file: int) -> None:
    tail = made_tail(2 * BLOCK, 4 * BLOCK)
    for offset in (BLOCK, 2 * BLOCK, 4 * BLOCK, 30 * BLOCK, -1):
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with contextlib.suppress(OSError):
                assert View(old_file, True, tail).seek(offset, whence) <= 4 * BLOCK
    with pytest.raises(OSError) as caught:
        View(old_file, True, tail).seek(-1, os.SEEK_DATA)
    assert caught.value.errno == errno.ENXIO


def test_size_and_blocks_are_those_that_clients_see(old_file: int) -> None:
    true = statx(old_file)
    seen = visible(made_tail(BLOCK, 3 * BLOCK, 4 * BLOCK), true)
    assert seen.size == 3 * BLOCK
    assert seen.blocks == true.blocks - 4 * BLOCK // 512
    assert (seen.ino, seen.mode, seen.mtime_ns) == (true.ino, true.mode, true.mtime_ns)
    assert visible(made_tail(0, 0, 2 * BIG), true).blocks == 0


@pytest.mark.parametrize(
    ("frontier", "size", "has_data", "only_grown"),
    [(0, BIG, False, True), (0, BIG, True, False), (0, 0, False, False), (9, 9, True, False)],
)
def test_a_file_that_was_only_given_a_size_is_known(
    frontier: int, size: int, has_data: bool, only_grown: bool
) -> None:
    tail = made_tail(frontier, size)
    tail.has_data = has_data
    assert tail.only_grown is only_grown


@pytest.mark.parametrize(
    ("data_bytes", "hidden_bytes", "awaits_more"),
    [
        pytest.param(0, 4 << 20, True, id="emptied"),
        pytest.param(0, (4 << 20) - 1, False, id="emptied, with little to lose"),
        pytest.param(2 << 20, 8 << 20, True, id="a header"),
        pytest.param((2 << 20) + 1, 8 << 20, False, id="more"),
        pytest.param(1 << 30, 8 << 30, True, id="the header of a large disk"),
        pytest.param(5, 0, False, id="all of it"),
    ],
)
def test_a_file_of_which_little_was_written_awaits_more(
    data_bytes: int, hidden_bytes: int, awaits_more: bool
) -> None:
    tail = made_tail(data_bytes, data_bytes, hidden_bytes)
    tail.written = tail.has_data = data_bytes > 0
    tail.data_bytes = data_bytes
    assert tail.awaits_more is awaits_more
