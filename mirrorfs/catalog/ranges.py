"""Ranges of chunks, bounded in number and stored in few bytes. Pure.

Each range is stored as two numbers, how many chunks lie between it and the one before, and how many
it has, in seven bits a byte with the eighth for "more follows" (LEB128, DWARF 5, 7.6).
"""

from __future__ import annotations

import itertools

MAX_RANGES = 4096

Ranges = list[tuple[int, int]]


def bounded(ranges: Ranges, limit: int = MAX_RANGES) -> Ranges:
    """`ranges`, which ascend, joined to no more than `limit` where the fewest chunks lie between
    them.
    """
    surplus = len(ranges) - limit
    if surplus <= 0:
        return ranges
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(ranges)]
    closed = set(sorted(range(len(gaps)), key=gaps.__getitem__)[:surplus])
    joined = [ranges[0]]
    for index, (start, end) in enumerate(ranges[1:]):
        if index in closed:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def count(ranges: Ranges) -> int:
    """How many chunks they are."""
    return sum(end - start for start, end in ranges)


def without(ranges: Ranges, first: int, stop: int) -> Ranges:
    """What of `ranges` lies outside of `[first, stop)`."""
    left: Ranges = []
    for start, end in ranges:
        left += [(a, b) for a, b in ((start, min(end, first)), (max(start, stop), end)) if a < b]
    return left


def united(one: Ranges, other: Ranges) -> Ranges:
    """All that lies in one of them, ascending, none next to another."""
    joined: Ranges = []
    for start, end in sorted([*one, *other]):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def encode(ranges: Ranges) -> bytes:
    """The bytes that `decode` reads."""
    data, before = bytearray(), 0
    for start, end in ranges:
        _put(data, start - before)
        _put(data, end - start)
        before = end
    return bytes(data)


def decode(data: bytes) -> Ranges:
    """The ranges again. Raises ValueError for what `encode` has not made."""
    numbers: list[int] = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(value)
            value = shift = 0
    if shift or len(numbers) % 2:
        raise ValueError("the ranges are cut off")
    ranges, place = [], 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        ranges.append((place + gap, place + gap + length))
        place += gap + length
    return ranges


def _put(data: bytearray, value: int) -> None:
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
