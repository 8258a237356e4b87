"""The gap of a stale tail: a range before the valid length that a client has left out, and is
likely to fill next. It keeps its old blocks, with which that is then compared.

qemu-img writes the footer of a virtual disk (vpc) behind each block before the block itself.

Guarantees: clients see zeros there. A daemon that dies leaves the range in the progress table
(`recovery`); where it cannot be noted there, there is no gap. Every function is called under the
lock of the open file, and none waits or raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.mirror.stale_tail import StaleTail

# Twice the usual block of such a disk.
_MAX_BYTES = 4 << 20


def begin(tail: StaleTail, end: int) -> bool:
    """Let what lies from the valid length to `end` (bytes) be the gap, as soon as the valid length
    has moved beyond it; there is no other. False, and nothing is done, where that is not possible.
    """
    if tail.place < 0 or end - tail.valid_length > _MAX_BYTES:
        return False
    _set(tail, tail.valid_length, end)
    return True


def fill(tail: StaleTail, start: int, end: int) -> None:
    """Note that `[start, end)` was written: if the gap begins there, it begins behind that now."""
    if tail.gap is not None and start <= tail.gap[0] < end:
        _set(tail, min(end, tail.gap[1]), tail.gap[1])


def is_met(tail: StaleTail, start: int, end: int) -> bool:
    """Whether a part of `[start, end)` is in the gap."""
    return tail.gap is not None and start < tail.gap[1] and tail.gap[0] < end


def shorten(tail: StaleTail, start: int) -> None:
    """Let the gap begin at `start`, or end if it ends there: what came before is zeros below."""
    if tail.gap is not None:
        _set(tail, start, tail.gap[1])


def _set(tail: StaleTail, start: int, end: int) -> None:
    """Let `[start, end)` be the gap. An empty one ends at 0 in the progress table, so that the next
    can be noted one number at a time.
    """
    tail.gap = (start, end) if start < end else None
    tail.table.set_gap(tail.place, start, end if start < end else 0)
