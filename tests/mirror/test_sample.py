"""A sample is random, of the size that was asked for, and the same again."""

from __future__ import annotations

import pytest

from mirrorfs.mirror.sample import WHOLE, Sample

CHUNKS = 40_000


@pytest.mark.parametrize("millionths", [WHOLE, 700_000, 333_333, 50_000, 1_000])
def test_a_sample_has_its_size_and_does_not_depend_on_where_one_begins(millionths: int) -> None:
    sample = Sample(millionths, 9)
    chosen = list(sample.chosen(0, CHUNKS))
    assert abs(len(chosen) - CHUNKS * millionths / WHOLE) <= 1
    assert chosen == sorted(set(chosen))
    pieces = [
        chunk
        for start in range(0, CHUNKS, 37)
        for chunk in sample.chosen(start, min(start + 37, CHUNKS))
    ]
    assert pieces == chosen


def test_another_seed_takes_other_chunks() -> None:
    first, second = (set(Sample(50_000, seed).chosen(0, CHUNKS)) for seed in (1, 2))
    assert len(first & second) < len(first) / 4


def test_every_chunk_can_be_taken() -> None:
    seen = {chunk for seed in range(500) for chunk in Sample(50_000, seed).chosen(0, 60)}
    assert seen == set(range(60))
