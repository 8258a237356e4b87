"""Ranges of chunks: bounded, and stored."""

from __future__ import annotations

import random

import pytest

from mirrorfs.catalog import ranges


def some(seed: int, count: int) -> ranges.Ranges:
    numbers, place, made = random.Random(seed), 0, []
    for _ in range(count):
        start = place + numbers.choice([1, 2, 300, 1 << 40])
        place = start + numbers.choice([1, 127, 128, 1 << 20])
        made.append((start, place))
    return made


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_what_is_stored_is_read_again(count: int) -> None:
    made = some(count, count)
    assert ranges.decode(ranges.encode(made)) == made


def test_one_chunk_takes_two_bytes() -> None:
    assert len(ranges.encode([(5, 6)])) == 2


@pytest.mark.parametrize("data", [b"\x80", b"\x01", b"\x01\x02\x83"])
def test_what_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        ranges.decode(data)


def test_too_many_are_joined_where_they_are_nearest() -> None:
    made = [(0, 1), (2, 3), (50, 51), (60, 61), (1000, 1001)]
    assert ranges.bounded(made, 3) == [(0, 3), (50, 61), (1000, 1001)]
    assert ranges.bounded(made, 1) == [(0, 1001)]
    assert ranges.bounded(made, 5) == made


def test_joined_ones_hold_all_that_was_there_and_no_more_ranges_than_allowed() -> None:
    made = some(7, 9000)
    joined = ranges.bounded(made)
    assert len(joined) == ranges.MAX_RANGES
    assert joined[0][0] == made[0][0]
    assert joined[-1][1] == made[-1][1]
    assert ranges.count(joined) > ranges.count(made)
    starts = iter(joined)
    current = next(starts)
    for start, end in made:
        while end > current[1]:
            current = next(starts)
        assert current[0] <= start
