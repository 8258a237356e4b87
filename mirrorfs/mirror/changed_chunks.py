"""Which chunks of its file one session has changed.

A chunk that changed is one bit, so that the count is exact however the writes come, and takes no
more than 1 KiB for each 512 MiB of the file in which something changed. Nothing here survives the
mount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 1 << 16
_CHUNKS_A_PAGE = 1 << 13
_PAGE_BYTES = _CHUNKS_A_PAGE // 8
# 16 TiB of a file. Who writes a byte here and there in a larger one must not fill the memory.
_MAX_PAGES = 1 << 15


class ChangedChunks:
    """Which chunks have changed. Guarded by the lock of the open file; read when no client writes
    it any more.
    """

    __slots__ = ("_beyond", "_pages")

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        # All that changed where no further page is kept, as one range of chunks.
        self._beyond: tuple[int, int] | None = None

    def mark(self, start: int, end: int) -> None:
        """Note that `[start, end)` (bytes) has changed."""
        if start >= end:
            return
        chunk, stop = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES + 1
        while chunk < stop:
            number = chunk // _CHUNKS_A_PAGE
            limit = min(stop, (number + 1) * _CHUNKS_A_PAGE)
            page = self._pages.get(number)
            if page is None:
                if len(self._pages) >= _MAX_PAGES:
                    self._mark_beyond(chunk, stop)
                    return
                page = self._pages[number] = bytearray(_PAGE_BYTES)
            _set_bits(page, chunk % _CHUNKS_A_PAGE, limit - number * _CHUNKS_A_PAGE)
            chunk = limit

    def _mark_beyond(self, chunk: int, stop: int) -> None:
        first, last = self._beyond or (chunk, stop)
        self._beyond = min(first, chunk), max(last, stop)

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """The chunks that changed, of a file that has `size` bytes now: half open ranges of numbers
        of chunks, in ascending order, none next to another.
        """
        limit = -(-size // CHUNK_BYTES)
        joined: list[tuple[int, int]] = []
        for start, end in self._all():
            stop = min(end, limit)
            if start >= stop:
                continue
            if joined and joined[-1][1] >= start:
                joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
            else:
                joined.append((start, stop))
        return joined

    def _all(self) -> Iterator[tuple[int, int]]:
        found = [
            (number * _CHUNKS_A_PAGE + start, number * _CHUNKS_A_PAGE + end)
            for number, page in self._pages.items()
            for start, end in _runs(page)
        ]
        if self._beyond is not None:
            found.append(self._beyond)
        yield from sorted(found)


def _set_bits(page: bytearray, start: int, end: int) -> None:
    """Set the bits `[start, end)`."""
    first, last = start >> 3, (end - 1) >> 3
    head, foot = 0xFF << (start & 7) & 0xFF, 0xFF >> (7 - ((end - 1) & 7))
    if first == last:
        page[first] |= head & foot
        return
    page[first] |= head
    page[last] |= foot
    page[first + 1 : last] = b"\xff" * (last - first - 1)


def _runs(page: bytearray) -> Iterator[tuple[int, int]]:
    """The runs of bits that are set."""
    bits, place = int.from_bytes(page, "little"), 0
    while bits:
        blank = (bits & -bits).bit_length() - 1
        bits >>= blank
        length = (~bits & (bits + 1)).bit_length() - 1
        place += blank
        yield place, place + length
        bits >>= length
        place += length
