"""Digests of chunks: xxh3_128 of each 64 KiB, seeded; and one digest over all of a file's.

xxh3 finds accidents, not attackers. A chunk of zeros has one digest for each seed and length, so a
hole need not be read.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mirrorfs import _native
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DIGEST_BYTES = 16
SEED_BITS = 64


def digests(data: ReadableBuffer, seed: int) -> bytes:
    """The digests of the chunks of `data`, 16 bytes each; the last chunk may be shorter. `seed` is
    below 2^64.
    """
    return _native.chunk_digests(data, seed, CHUNK_BYTES)


@functools.lru_cache(maxsize=64)
def of_zeros(length: int, seed: int) -> bytes:
    """The digest of a chunk of `length` bytes, 64 KiB at most, that are zero."""
    return digests(bytes(length), seed)


def count(size: int) -> int:
    """How many chunks a file of `size` bytes has."""
    return -(-size // CHUNK_BYTES)


class Total:
    """The digest over all chunks of a file, from their digests as they come: these are cut in
    chunks, too, whose digests are taken, and so on until one is left.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._levels: list[bytearray] = [bytearray()]

    def add(self, more: bytes) -> None:
        """Take the digests of the chunks that follow."""
        self._add(0, more)

    def add_zeros(self, chunks: int) -> None:
        """Take so many whole chunks of zeros."""
        one = of_zeros(CHUNK_BYTES, self._seed)
        step = CHUNK_BYTES // DIGEST_BYTES
        for start in range(0, chunks, step):
            self._add(0, one * min(step, chunks - start))

    def _add(self, level: int, more: bytes) -> None:
        if level == len(self._levels):
            self._levels.append(bytearray())
        waiting = self._levels[level]
        waiting += more
        whole = len(waiting) - len(waiting) % CHUNK_BYTES
        if whole:
            self._add(level + 1, digests(bytes(waiting[:whole]), self._seed))
            del waiting[:whole]

    def digest(self) -> bytes:
        """The digest over all that came; of an empty file all zeros."""
        carried = b""
        for waiting in self._levels[:-1]:
            carried = digests(bytes(waiting) + carried, self._seed)
        rest = bytes(self._levels[-1]) + carried
        if len(rest) > DIGEST_BYTES:
            rest = digests(rest, self._seed)
        return rest or bytes(DIGEST_BYTES)
