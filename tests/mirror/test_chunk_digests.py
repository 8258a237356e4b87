"""Digests of chunks are those of xxHash, and what is made of them."""

from __future__ import annotations

import ctypes
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import xxhash

from mirrorfs import _native
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.chunk_digests import DIGEST_BYTES, Total
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable

NATIVE = Path(__file__).parents[2] / "mirrorfs/fuse/native"
SEEDS = (0, 1, 0x0123456789ABCDEF, 2**64 - 1)
SIZES = (0, 1, 3, 16, 17, 128, 240, 241, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1)


def reference(data: bytes, seed: int) -> bytes:
    """By the other implementation."""
    pieces = range(0, len(data), CHUNK_BYTES)
    return b"".join(
        xxhash.xxh3_128_digest(data[place : place + CHUNK_BYTES], seed) for place in pieces
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [*SIZES, 33 * CHUNK_BYTES + 777])
def test_digests_are_those_of_xxhash(size: int, seed: int) -> None:
    data = os.urandom(size)
    assert chunk_digests.digests(data, seed) == reference(data, seed)
    assert chunk_digests.digests(memoryview(bytearray(b"x" + data))[1:], seed) == reference(
        data, seed
    )


@pytest.fixture(scope="module", params=["plain", "avx2"])
def loop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """The loop for one kind of processor, of which the module itself calls the fastest only."""
    if request.param != "plain" and request.param not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has no {request.param}")
    library = tmp_path_factory.mktemp("loop") / "loop.so"
    source = NATIVE / f"chunk_loop_{request.param}.c"
    run("gcc", "-std=c11", "-O2", "-fPIC", "-shared", source, "-o", library)
    found: Callable[..., None] = getattr(ctypes.CDLL(str(library)), source.stem)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_each_loop_gives_digests_of_xxhash(loop: Callable[..., None], seed: int) -> None:
    """Of every length up to a few strides of the vectors, then of some, at every alignment."""
    data = random.Random(seed).randbytes(3 * CHUNK_BYTES + 777)
    buffer = ctypes.create_string_buffer(data, len(data))
    for turn, size in enumerate([*range(1100), *SIZES, 2 * CHUNK_BYTES + 700]):
        start, size_t = turn % 65, ctypes.c_size_t
        found = ctypes.create_string_buffer(chunk_digests.count(size) * DIGEST_BYTES)
        place = ctypes.c_void_p(ctypes.addressof(buffer) + start)
        loop(place, size_t(size), size_t(CHUNK_BYTES), ctypes.c_uint64(seed), found)
        assert found.raw == reference(data[start : start + size], seed), (size, start)


def test_a_known_answer() -> None:
    """XXH128 of no byte and of one, as `xxhsum -H2` prints them."""
    assert xxhash.xxh3_128_digest(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert chunk_digests.digests(b"a", 0).hex() == "a96faf705af16834e6c632b61e964e1f"


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(OverflowError):
        chunk_digests.digests(b"x", seed)


@pytest.mark.parametrize("words", [("text", 0, 1), (b"x", "0", 1), (b"x", 0), (b"x", 0, None)])
def test_what_is_no_data_is_refused(words: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        _native.chunk_digests(*words)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk_bytes", [0, -1])
def test_a_chunk_is_not_empty(chunk_bytes: int) -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        _native.chunk_digests(b"x", 0, chunk_bytes)


def test_chunks_of_zeros_are_known() -> None:
    for length in (1, 4096, CHUNK_BYTES):
        assert chunk_digests.of_zeros(length, 5) == reference(bytes(length), 5)


def total_of(found: bytes, seed: int) -> bytes:
    """The rule as the page has it."""
    while len(found) > DIGEST_BYTES:
        found = reference(found, seed)
    return found or bytes(DIGEST_BYTES)


@pytest.mark.parametrize("count", [0, 1, 2, 4095, 4096, 4097, 8192, 3 * 4096 + 5])
def test_the_digest_over_all_does_not_depend_on_how_they_come(count: int) -> None:
    chance = random.Random(count)
    found = chance.randbytes(count * DIGEST_BYTES)
    for most in (1, 32, 5000):
        total, place = Total(7), 0
        while place < count:
            step = chance.randint(1, most)
            total.add(found[place * DIGEST_BYTES : (place + step) * DIGEST_BYTES])
            place += step
        assert total.digest() == total_of(found, 7)


@pytest.mark.parametrize("zeros", [1, 4096, 10_000])
def test_zeros_are_added_by_their_number(zeros: int) -> None:
    total = Total(7)
    total.add(b"x" * DIGEST_BYTES)
    total.add_zeros(zeros)
    found = b"x" * DIGEST_BYTES + reference(bytes(CHUNK_BYTES), 7) * zeros
    assert total.digest() == total_of(found, 7)
