"""The short path of a write: what needs one decision for all its blocks. New data at the end of the
file or in place of other data, data that is there already, zeros over a hole.

Guarantees: whatever is decided otherwise for one block than for the next, or needs more done than
one write below, is left to `writer`, untouched and uncounted. What a crash leaves is what a plain
pwrite interrupted at that place leaves. Called under the lock of the open file.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mirrorfs.backing import holes
from mirrorfs.mirror import basis, gaps, progress
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.old_blocks import uncover
from mirrorfs.mirror.plan import Data, Kind, Step, is_zero, pieces, plan, zero_blocks

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail


def take(file: OpenFile, offset: int, data: Data, requests: int) -> int:
    """Put `data` at `offset` (bytes), if that is simple; returns how many bytes of it are there,
    and counted: all, or 0, or as many as the file system below took. With all of it, `requests`
    are counted, too. Raises OSError, having counted nothing.
    """
    if not data or file.seed_fd >= 0 or file.append_only or file.writeback.failed:
        return 0
    end, tail = offset + len(data), file.stale_tail
    status = os.fstat(file.fd)
    if offset == status.st_size and tail is None:
        return _append(file, offset, data, requests)
    if end > status.st_size or (tail is not None and not _follows(file, tail, offset, end)):
        return 0
    count = _classify(file, offset, data)
    if count is None:
        return 0
    if count.written_bytes:
        return _store(file, offset, data, requests, count) if tail is None else 0
    file.touch()
    if file.digests is not None:
        file.digests.took(offset, data, False, count.hole_bytes == len(data))
    count.write_requests, count.received_bytes = requests, len(data)
    if tail is not None:
        _advance(file, tail, offset, end, count)
    file.count(count)
    return len(data)


def _append(file: OpenFile, offset: int, data: Data, requests: int) -> int:
    """Data at the end of the file, which is that of a block, none of it a block of zeros."""
    rules = file.rules
    if offset % rules.block_bytes or (rules.punch and zero_blocks(data, rules.block_bytes)):
        return 0
    return _store(file, offset, data, requests, Counters())


def _store(file: OpenFile, offset: int, data: Data, requests: int, count: Counters) -> int:
    taken = os.pwrite(file.fd, data, offset)
    count.write_requests = requests if taken == len(data) else 0
    count.received_bytes = count.written_bytes = taken
    file.tally.changed.mark(offset, offset + taken)
    if file.digests is not None:
        file.digests.took(offset, data[:taken], True, False)
    file.count(count)
    return taken


def _follows(file: OpenFile, tail: StaleTail, offset: int, end: int) -> bool:
    """Whether a write to `[offset, end)` can move the valid length simply: there is nothing to be
    wiped before it, and the progress table is where that is noted.
    """
    if gaps.is_met(tail, offset, end):
        return False
    if end <= tail.valid_length:
        return True
    if offset < tail.valid_length or tail.place < 0 or progress.is_behind(tail):
        return False
    return offset == tail.valid_length or _is_blank(file, tail.valid_length, offset)


def _is_blank(file: OpenFile, start: int, end: int) -> bool:
    """Whether there is nothing below in `[start, end)`, or less than a block of stored zeros."""
    if _is_hole(file, start, end):
        return True
    block = file.rules.block_bytes
    if start + -start % block + block <= end:
        return False
    return is_zero(basis.read(file.fd, start, end))


def _advance(file: OpenFile, tail: StaleTail, offset: int, end: int, count: Counters) -> None:
    """Move the valid length over `[offset, end)`, of which nothing had to be changed. It is noted
    in memory alone (`_follows`).
    """
    if tail.shared and end > tail.valid_length:
        count.shared_bytes, count.unchanged_bytes = count.unchanged_bytes, 0
    uncover(file, tail, tail.valid_length, end)
    if progress.move_valid_length(tail, offset, end, count.hole_bytes == end - offset):
        tail.note_ended(file.fd)


def _classify(file: OpenFile, offset: int, data: Data) -> Counters | None:
    """The classes of all bytes of `data`: nothing is to be done for any of them, or all of them are
    to be written; else None.
    """
    rules, end = file.rules, offset + len(data)
    if rules.punch and is_zero(data):
        return Counters(hole_bytes=len(data)) if _is_hole(file, offset, end) else None
    if not file.compares:
        return None
    whole = not (offset % rules.block_bytes or len(data) % rules.block_bytes)
    if whole and rules.punch and _is_hole(file, offset, end):
        has_zeros = zero_blocks(data, rules.block_bytes)
        return None if has_zeros else Counters(written_bytes=len(data))
    old, trusted = basis.content(file, offset, data)
    if len(old) != len(data):
        return None
    file.reads_old = trusted < len(data)
    count = Counters(compared_bytes=len(data) - trusted, trusted_bytes=trusted)
    for start, piece in pieces(data, offset, rules.block_bytes):
        there = old if len(piece) == len(data) else old[start - offset :][: len(piece)]
        for step in plan(piece, there, start, rules):
            if step.kind is Kind.UNCHANGED:
                count.unchanged_bytes += step.end - step.start
            elif step.kind is Kind.HOLE and _is_hole(file, step.start, step.end):
                count.hole_bytes += step.end - step.start
            elif whole and step == Step(Kind.WRITE, offset, end):
                return replace(count, written_bytes=len(data), unchanged_bytes=0, hole_bytes=0)
            else:
                return None
    return count


def _is_hole(file: OpenFile, start: int, end: int) -> bool:
    if not file.is_seek_trusted:
        return False
    first = holes.next_data(file.fd, start)
    return first is None or first >= end
