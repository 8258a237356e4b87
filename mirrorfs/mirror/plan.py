"""What each block of a write needs. Pure: bytes in, steps out.

The cost is kept near that of one memcmp. A block can only be zero, or equal, if a few sample bytes
of it are; a strided slice fetches one sample of every block in a single call, and only candidates
are compared whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_ZEROS = bytes(1 << 20)

# What is received may lie in the buffer in which the kernel's request came.
Data = bytes | memoryview


class Kind(Enum):
    """What is to be done with a range: write it, leave it, or make it a hole."""

    WRITE = "write"
    UNCHANGED = "unchanged"
    HOLE = "hole"


@dataclass(frozen=True, slots=True)
class Step:
    """One range `[start, end)`, in bytes of the file, and what it needs."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done with a block that is zero, and with one that the file holds already."""

    punch: bool = True  # zeros become holes (`zeros=punch`)
    skip: bool = True  # what is unchanged is not written (`unchanged=skip`)
    block_bytes: int = 4096
    trust: bool = False  # an equal digest stands for equal data (`compare=digest`)


def is_zero(data: Data) -> bool:
    """Whether `data` holds nothing but zero bytes."""
    if len(data) <= len(_ZEROS):
        return _ZEROS.startswith(data)
    return not bytes(data).strip(b"\0")


def pieces(data: Data, start: int, block: int) -> list[tuple[int, Data]]:
    """`data`, which begins at `start`, cut where its first whole block begins and its last ends:
    pairs of offset and bytes.
    """
    end = start + len(data)
    first, last = start + -start % block, end - end % block
    if first > last or (first == start and last == end):
        return [(start, data)]
    cuts = [(start, min(first, end)), (first, last), (max(first, last), end)]
    return [(a, data[a - start : b - start]) for a, b in cuts if a < b]


def plan(new: Data, old: bytes | bytearray | None, start: int, rules: Rules) -> list[Step]:
    """Say what each block of `new` needs so that the file holds it at `start`.

    `start` is a multiple of the block; `new` is whole blocks, except that its last one may be short
    at the end of the file. `old` is what the file holds there now, possibly shorter than `new` at
    the end of the file; None means that there is nothing to compare with. Returns steps in
    ascending order, neighbours of one kind joined.
    """
    size, end = len(new), start + len(new)
    zero = zero_blocks(new, rules.block_bytes) if rules.punch else frozenset()
    equal = _equal_blocks(new, old, rules.block_bytes) if old is not None else range(0)
    blocks = -(-size // rules.block_bytes)
    if len(zero) == blocks:
        return [Step(Kind.HOLE, start, end)]
    if not zero and len(equal) in {0, blocks}:
        return [Step(Kind.UNCHANGED if equal else Kind.WRITE, start, end)]
    kinds = [
        Kind.HOLE if i in zero else Kind.UNCHANGED if i in equal else Kind.WRITE
        for i in range(blocks)
    ]
    return _join(kinds, start, end, rules.block_bytes)


def _join(kinds: list[Kind], start: int, end: int, block: int) -> list[Step]:
    """One step for each run of blocks of one kind."""
    steps: list[Step] = []
    first = 0
    for index in range(1, len(kinds) + 1):
        if index == len(kinds) or kinds[index] is not kinds[first]:
            steps.append(Step(kinds[first], start + first * block, min(start + index * block, end)))
            first = index
    return steps


def zero_blocks(new: Data, block: int) -> frozenset[int] | set[int]:
    """Indices of the all-zero blocks of `new`, the last of which may be short."""
    firsts = bytes(new[::block])
    found: set[int] = set()
    if is_zero(new):
        return set(range(len(firsts)))
    index = firsts.find(0)
    while index >= 0:
        offset = index * block
        if is_zero(new[offset : offset + block]):
            found.add(index)
        index = firsts.find(0, index + 1)
    return found


def _equal_blocks(new: Data, old: bytes | bytearray, block: int) -> set[int] | range:
    """Indices of the blocks of `new` that `old` holds, too; bytes beyond the end of `old` are not
    held.
    """
    size = len(new)
    if len(old) == size and old.startswith(new):
        return range(-(-size // block))
    found: set[int] = set()
    for index, (ours, theirs) in enumerate(zip(bytes(new[::block]), old[::block], strict=False)):
        if ours == theirs:
            offset = index * block
            end = min(offset + block, size)
            if end <= len(old) and old.startswith(new[offset:end], offset):
                found.add(index)
    return found
