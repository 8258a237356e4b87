"""The old blocks of a stale tail, below: how much of them clients do not see, and how they become
zeros where clients see zeros.

Guarantees: a range is counted as hidden no longer before it becomes zeros; a failure in between
leaves a file that seems to occupy too much, never too little. A crash leaves each block as it was,
or zero, both of which the recovery attribute allows (`progress`). Every function is called under
the lock of the open file, and raises OSError as the file system below does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.mirror import gaps
from mirrorfs.mirror.punching import make_zero, not_zero

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail


def cover(file: OpenFile, tail: StaleTail, start: int, end: int) -> None:
    """Count what lies in `[start, end)` (bytes) as hidden. Where SEEK_DATA is not trusted it counts
    as nothing: a file that seems to occupy too little is taken for a hole by copy tools.
    """
    if file.is_seek_trusted:
        tail.hidden_bytes += file.data_bytes(start, end)


def uncover(file: OpenFile, tail: StaleTail, start: int, end: int) -> None:
    """Count what old blocks occupy in `[start, end)` (bytes) as hidden no longer."""
    tail.hidden_bytes = max(0, tail.hidden_bytes - file.data_bytes(start, end))


def wipe(file: OpenFile, tail: StaleTail, start: int, stop: int) -> None:
    """Make the old content from `start` to `stop` (bytes) zeros. What is zero already stays as it
    is: some tools skip zeros by the kilobyte.
    """
    for first, last in not_zero(file, start, stop, os.fstat(file.fd).st_size):
        if file.data_bytes(first, last):
            file.begin_content_change()
            uncover(file, tail, max(stop, tail.valid_length), last)
            make_zero(file, first, last)


def close_gap(file: OpenFile, tail: StaleTail) -> None:
    """Let the gap be zeros below, too, if there is one."""
    if tail.gap is not None:
        start, end = tail.gap
        uncover(file, tail, start, end)
        wipe(file, tail, start, end)
        gaps.shorten(tail, end)


def enter_gap(file: OpenFile, tail: StaleTail, gap: tuple[int, int], start: int, end: int) -> None:
    """Prepare for a write to `[start, end)` (bytes), of which a part is in the gap: what lies
    before it in the gap becomes zeros, so that the gap begins where the write does.
    """
    first, last = gap
    if start > first:
        uncover(file, tail, first, start)
        wipe(file, tail, first, start)
        gaps.shorten(tail, start)
    uncover(file, tail, max(start, first), min(end, last))
