"""The short path of a write to a file with a stale tail, of each file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.mirror.seeded import BLOCK, MIB, OLD

if TYPE_CHECKING:
    from tests.mirror.seeded import Target


@pytest.mark.parametrize("sizes", [[BLOCK, BLOCK, 3 * BLOCK], [9728, 10_240, 7]])
def test_equal_data_moves_the_valid_length_without_the_writer(
    target: Target, sizes: list[int]
) -> None:
    target.truncate(0)
    end = 0
    for size in sizes:
        assert target.take(end, OLD * size)
        end += size
        assert (target.recorded.valid_length, target.recorded.size) == (end, end)
    counted = target.account.file((0, 0, 0))
    assert (counted["unchanged_bytes"], counted["received_bytes"]) == (end, end)
    assert target.finalise() == OLD * end


def test_zeros_over_a_hole_below_move_the_valid_length_too(target: Target) -> None:
    os.truncate(target.file.fd, 4 * MIB)
    target.truncate(2 * MIB - BLOCK)
    assert target.take(2 * MIB - BLOCK, OLD * BLOCK)
    assert target.take(2 * MIB, bytes(10_000))
    assert target.recorded.valid_length == 2 * MIB + 10_000
    assert target.finalise() == OLD * 2 * MIB + bytes(10_000)


def test_a_range_left_out_over_a_hole_below_needs_no_writer(target: Target) -> None:
    os.pwrite(target.file.fd, OLD * BLOCK, 4 * MIB)
    target.truncate(2 * MIB)
    assert target.take(4 * MIB, OLD * 1000)
    assert target.recorded.valid_length == 4 * MIB + 1000
    assert target.finalise() == OLD * 2 * MIB + bytes(2 * MIB)
    assert os.pread(target.file.fd, 5000, 4 * MIB) == OLD * 1000
