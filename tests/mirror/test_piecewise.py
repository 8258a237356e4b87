"""Chunks that come in pieces."""

from __future__ import annotations

import pytest

from mirrorfs.mirror.piecewise import Piecewise

CHUNK = 1 << 16
DATA = bytes(range(256)) * (CHUNK // 256)


@pytest.mark.parametrize("size", [1, 1000, 4096, 32768, CHUNK - 1, CHUNK])
def test_pieces_in_order_make_a_chunk(size: int) -> None:
    pieces = Piecewise()
    made = [
        pieces.add(5 * CHUNK + place, DATA[place : place + size]) for place in range(0, CHUNK, size)
    ]
    assert made == [None] * (len(made) - 1) + [DATA]


def test_pieces_elsewhere_do_not_disturb() -> None:
    pieces = Piecewise()
    assert pieces.add(0, DATA[:100]) is None
    assert pieces.add(3 * CHUNK + 100, b"x" * 9) is None
    assert pieces.add(100, DATA[100:]) == DATA


@pytest.mark.parametrize("start", [0, 50, 99, 101, 40_000])
def test_pieces_out_of_order_make_none(start: int) -> None:
    pieces = Piecewise()
    pieces.add(0, DATA[:100])
    assert pieces.add(start, b"x") is None
    assert pieces.add(100, DATA[100:]) is None


def test_a_chunk_that_is_begun_anew_is_made_of_what_came_last() -> None:
    pieces = Piecewise()
    pieces.add(0, b"x" * 100)
    pieces.add(0, DATA[:50])
    assert pieces.add(50, DATA[50:]) == DATA


def test_a_chunk_is_not_made_twice() -> None:
    pieces = Piecewise()
    assert pieces.add(0, DATA) == DATA
    assert pieces.add(100, DATA[100:]) is None


@pytest.mark.parametrize(("first", "stop"), [(2, 3), (0, 3), (2, 1 << 60)])
def test_what_is_changed_in_another_way_is_forgotten(first: int, stop: int) -> None:
    pieces = Piecewise()
    pieces.add(2 * CHUNK, DATA[:100])
    pieces.forget(first, stop)
    assert pieces.add(2 * CHUNK + 100, DATA[100:]) is None


@pytest.mark.parametrize(("first", "stop"), [(0, 2), (3, 9), (2, 2)])
def test_changes_of_other_chunks_leave_it(first: int, stop: int) -> None:
    pieces = Piecewise()
    pieces.add(2 * CHUNK, DATA[:100])
    pieces.forget(first, stop)
    assert pieces.add(2 * CHUNK + 100, DATA[100:]) == DATA


def test_what_is_kept_is_a_copy() -> None:
    """The buffer of a request is used again for the next."""
    pieces, buffer = Piecewise(), bytearray(DATA[:100])
    pieces.add(0, memoryview(buffer))
    buffer[:] = bytes(100)
    assert pieces.add(100, DATA[100:]) == DATA
