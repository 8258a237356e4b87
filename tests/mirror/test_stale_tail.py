"""What follows from the state of a stale tail, without a file."""

from __future__ import annotations

import pytest

from mirrorfs.backing.statx import statx
from mirrorfs.mirror.stale_tail import visible
from tests.mirror.opened import BIG, BLOCK, bare_tail


def test_size_and_blocks_are_those_that_clients_see(old_file: int) -> None:
    true = statx(old_file)
    seen = visible(bare_tail(BLOCK, 3 * BLOCK, 4 * BLOCK), true)
    assert seen.size == 3 * BLOCK
    assert seen.blocks == true.blocks - 4 * BLOCK // 512
    assert (seen.ino, seen.mode, seen.mtime_ns) == (true.ino, true.mode, true.mtime_ns)
    assert visible(bare_tail(0, 0, 2 * BIG), true).blocks == 0


@pytest.mark.parametrize(
    ("valid", "size", "has_data", "only_grown"),
    [(0, BIG, False, True), (0, BIG, True, False), (0, 0, False, False), (9, 9, True, False)],
)
def test_a_file_that_was_only_given_a_size_is_known(
    valid: int, size: int, has_data: bool, only_grown: bool
) -> None:
    tail = bare_tail(valid, size)
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
    tail = bare_tail(data_bytes, data_bytes, hidden_bytes)
    tail.written = tail.has_data = data_bytes > 0
    tail.data_bytes = data_bytes
    assert tail.awaits_more is awaits_more
