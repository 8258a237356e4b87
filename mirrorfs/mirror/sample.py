"""Which chunks of a file a random sample holds. Pure: the same seed gives the same on any machine,
and no chunk before the ones that are asked for has to be counted, so that holes cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORD = (1 << 64) - 1
WHOLE = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of `millionths` (1 … 1,000,000) of all chunks. The file is cut into as many parts as
    chunks are wanted, and of each part one chunk is taken.
    """

    millionths: int
    seed: int

    def chosen(self, first: int, end: int) -> Iterator[int]:
        """The chunks in `[first, end)` that it holds, in ascending order."""
        part = first * self.millionths // WHOLE
        while True:
            start, stop = _border(part, self.millionths), _border(part + 1, self.millionths)
            if start >= end:
                return
            chunk = start + _mixed(self.seed, part) % (stop - start)
            if first <= chunk < end:
                yield chunk
            part += 1


def _border(part: int, millionths: int) -> int:
    """The first chunk of this part."""
    return part * WHOLE // millionths


def _mixed(seed: int, number: int) -> int:
    """A number below 2^64 that looks random (splitmix64, its `number`-th)."""
    word = (seed + (number + 1) * 0x9E3779B97F4A7C15) & _WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31
