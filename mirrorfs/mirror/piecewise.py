"""A chunk that comes in pieces, one after the other, as many tools write: kept until it is
whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from mirrorfs.mirror.plan import Data


class Piecewise:
    """At most one chunk. What is written elsewhere in between does not disturb it."""

    __slots__ = ("_chunk", "_next", "_pieces")

    def __init__(self) -> None:
        self._chunk, self._next = -1, 0
        self._pieces: list[Data] = []

    def add(self, start: int, piece: Data) -> bytes | None:
        """Take a piece that lies in one chunk, from `start` on (bytes); returns the chunk if that
        has made it whole.
        """
        chunk, ragged = divmod(start, CHUNK_BYTES)
        if not ragged:
            self._chunk, self._pieces = chunk, []
        elif chunk != self._chunk:
            return None
        elif start != self._next:
            self.forget(chunk, chunk + 1)
            return None
        self._pieces.append(bytes(piece))
        self._next = start + len(piece)
        if self._next % CHUNK_BYTES:
            return None
        whole = b"".join(self._pieces)
        self.forget(chunk, chunk + 1)
        return whole

    def rest(self, end: int) -> tuple[int, bytes] | None:
        """The number and content of the last chunk of a file that ends at `end` (bytes), if all of
        it has come.
        """
        if self._chunk < 0 or self._next != end:
            return None
        return self._chunk, b"".join(self._pieces)

    def forget(self, first: int, stop: int) -> None:
        """Note that the chunks `[first, stop)` are changed in another way."""
        if first <= self._chunk < stop:
            self._chunk, self._pieces = -1, []
