"""Which chunks have changed."""

from __future__ import annotations

import itertools
import random

import pytest

from mirrorfs.mirror import changed_chunks
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES, ChangedChunks

NO_END = 1 << 63


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 1, [(0, 1)]),
        (CHUNK_BYTES - 1, CHUNK_BYTES, [(0, 1)]),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1, [(0, 2)]),
        (5 * CHUNK_BYTES, 5 * CHUNK_BYTES, []),
        (3 * CHUNK_BYTES, 40 * CHUNK_BYTES, [(3, 40)]),
        (8191 * CHUNK_BYTES, 8193 * CHUNK_BYTES, [(8191, 8193)]),
        (0, 3 << 30, [(0, 3 << 14)]),
    ],
)
def test_a_write_changes_the_chunks_it_touches(
    start: int, end: int, expected: list[tuple[int, int]]
) -> None:
    changed = ChangedChunks()
    changed.mark(start, end)
    assert changed.ranges(NO_END) == expected


def test_any_writes_are_as_a_set_of_chunks(subtests: pytest.Subtests) -> None:
    for seed in range(30):
        with subtests.test(seed=seed):
            numbers, changed, expected = random.Random(seed), ChangedChunks(), set()
            for _ in range(numbers.randrange(1, 60)):
                start = numbers.randrange(20_000 * CHUNK_BYTES)
                end = start + numbers.choice([1, 4096, 1 << 20, 1 << 26])
                changed.mark(start, end)
                expected |= set(range(start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES + 1))
            ranges = changed.ranges(NO_END)
            assert {chunk for one in ranges for chunk in range(*one)} == expected
            assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


def test_what_lies_beyond_the_end_does_not_count() -> None:
    changed = ChangedChunks()
    changed.mark(0, 10 * CHUNK_BYTES)
    assert changed.ranges(3 * CHUNK_BYTES + 1) == [(0, 4)]
    assert changed.ranges(0) == []


def test_who_writes_here_and_there_in_a_huge_file_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changed_chunks, "_MAX_PAGES", 2)
    changed = ChangedChunks()
    for place in (0, 1, 7, 3):
        changed.mark(place << 40, (place << 40) + 1)
    chunks = (1 << 40) // CHUNK_BYTES
    assert changed.ranges(NO_END) == [
        (0, 1),
        (chunks, chunks + 1),
        (3 * chunks, 7 * chunks + 1),
    ]
