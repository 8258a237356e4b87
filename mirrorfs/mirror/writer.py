"""Carry out a write: complete its blocks, plan, act in ascending order, count what was done.

Guarantees: after `write` returned n, the first n bytes of the request are in the file as a plain
pwrite would have put them; an error is raised only if none are. A crash leaves what a plain pwrite
interrupted at the same place leaves, because a range is only ever replaced by its new content, left
alone if it holds that already, or punched if it is zero.

Called by any thread; each public function takes the lock of the open file, and inside it that
of the account.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import holes, syscalls
from mirrorfs.mirror import advancing, basis, seeding, short_path
from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.old_blocks import uncover
from mirrorfs.mirror.plan import Kind, Rules, Step, is_zero, plan
from mirrorfs.mirror.resizing import free_blocks, hole_at_end

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile


class Taken(NamedTuple):
    """How many bytes of a request were taken, and what went wrong with it."""

    size: int
    # What stopped it short of its end, or else left it incomplete.
    failure: OSError | None = None
    # All these bytes were taken, but a sync inside failed: no later write makes that good.
    unrecorded: OSError | None = None


@dataclass(slots=True)
class _Request:
    """One write on its way: `[offset, end)` (bytes) is to become `data`."""

    file: OpenFile
    offset: int
    data: bytes
    # The status of the file below, as it was.
    before: os.stat_result
    count: Counters
    # Up to here the range has become `data`.
    done: int
    # The size of the file below, as it is now.
    stored_end: int
    # Where its content ended before: at its size, or where the hole in its last block begins.
    old_end: int
    # Something below was changed.
    changed: bool = False
    # Holes by which the file grows, in which the file system may have allocated blocks.
    new_holes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    @property
    def rules(self) -> Rules:
        return self.file.rules

    @property
    def shared_from(self) -> int:
        """From where on what is unchanged is a block of another file, too."""
        tail = self.file.stale_tail
        return tail.valid_length if tail is not None and tail.shared else self.end


def write(file: OpenFile, offset: int, data: bytes, requests: int = 1) -> Taken:
    """Put `data` at `offset` (bytes), storing only what is neither zero nor there already; returns
    how much was taken, which is less than all where a step failed.

    Raises the OSError of that step if no byte was taken. `requests` is what this adds to the count
    of write requests.
    """
    with file.lock:
        file.begin_digests()
        return _take(file, offset, data, requests)


def append(file: OpenFile, data: bytes, requests: int = 1) -> tuple[int, Taken]:
    """Put `data` at the end of the file, wherever that is by now; returns the offset, in bytes, and
    what `write` returns. Raises as that does.
    """
    with file.lock:
        file.begin_digests()
        offset = file.size
        return offset, _take(file, offset, data, requests)


def _take(file: OpenFile, offset: int, data: bytes, requests: int) -> Taken:
    """`write`, by a caller that holds the lock."""
    try:
        taken = short_path.take(file, offset, data, requests)
    except OSError:
        taken = 0  # it is met again
    if taken == len(data) > 0:
        return Taken(taken)
    if not taken:
        return _put(file, offset, data, requests)
    try:
        rest = _put(file, offset + taken, data[taken:], requests)
    except OSError as exc:
        return Taken(taken, exc)
    return rest._replace(size=taken + rest.size)


def _put(file: OpenFile, offset: int, data: bytes, requests: int) -> Taken:
    """What is not simple, or fails, block by block."""
    count = Counters(write_requests=requests)
    done = offset
    is_changed = False
    failure: OSError | None = None
    unrecorded: OSError | None = None
    try:
        request = _begin(file, offset, data, count)
        failure = _carry_out(request)
        done, is_changed = request.done, request.changed
        unrecorded = _record(request)
    except OSError as exc:  # before anything was done
        failure = exc
    count.received_bytes = done - offset
    count.failed_bytes = len(data) - count.received_bytes if failure else 0
    file.count(count)
    file.writeback.note_rewritten(offset, done)
    if file.digests is not None and done > offset:
        is_zero = count.hole_bytes + count.punched_bytes == count.received_bytes
        file.digests.took(offset, data[: done - offset], is_changed, is_zero)
    if failure is not None and done == offset:
        raise failure
    return Taken(done - offset, failure, unrecorded)


def _begin(file: OpenFile, offset: int, data: bytes, count: Counters) -> _Request:
    """The request, as the file is now: with its seed, if it is to have one."""
    if file.seed_fd >= 0 and data:
        seeding.plant(file)
    file.begin_change()
    before = os.fstat(file.fd)
    size, rules = before.st_size, file.rules
    grows = offset + len(data) > size and rules.punch and file.leaves_blocks
    old_end = hole_at_end(file, size) if grows else size
    return _Request(file, offset, data, before, count, offset, size, old_end)


def _carry_out(request: _Request) -> OSError | None:
    """Do what the request needs, as far as that goes; returns the error that stopped it."""
    file, failure = request.file, None
    try:
        if file.stale_tail is not None:
            advancing.reach(file, file.stale_tail, request.offset, request.end)
        for step in _decide(request):
            _act(request, step)
    except OSError as exc:
        failure = exc
    return _finish(request) or failure


def _record(request: _Request) -> OSError | None:
    """Note what was done to a file with a stale tail; returns the error if that is not possible."""
    file, count, tail = request.file, request.count, request.file.stale_tail
    if tail is None:
        return None
    if request.done == request.offset:
        file.end_change()
        return None
    is_zero = count.hole_bytes + count.punched_bytes == request.done - request.offset
    return advancing.advance(file, tail, request.offset, request.done, is_zero)


def _decide(request: _Request) -> list[Step]:
    """The steps for the whole blocks around the request; they may begin before it and end behind
    it.
    """
    file, data, rules = request.file, request.data, request.rules
    offset, end, size = request.offset, request.end, request.before.st_size
    if not data:
        return []
    if file.append_only:  # its descriptor appends wherever it writes, so no hole can be made
        return [Step(Kind.WRITE, offset, end)]
    block = rules.block_bytes
    start = offset - offset % block
    stop = end + -end % block
    whole = start == offset and (stop == end or end >= size)
    if rules.punch and whole and is_zero(data):
        return [Step(Kind.HOLE, offset, end)]
    compare = file.compares
    if not compare and (not rules.punch or not file.readable):
        return [Step(Kind.WRITE, offset, end)]
    if _nothing_below(request, start, stop):
        return plan(bytes(offset - start) + data, None, start, rules)
    if not compare:
        head = os.pread(file.fd, offset - start, start).ljust(offset - start, b"\0")
        return plan(head + data + os.pread(file.fd, stop - end, end), None, start, rules)
    if whole:
        there, trusted = basis.content(file, offset, data[: size - offset])
        request.count.compared_bytes += len(there) - trusted
        request.count.trusted_bytes += trusted
        return plan(data, there, start, rules)
    old = basis.read(file.fd, start, min(stop, size))
    request.count.compared_bytes += len(old)
    head = old[: offset - start].ljust(offset - start, b"\0")
    steps = plan(head + data + old[end - start :], old, start, rules)
    tail = file.stale_tail
    if tail is not None and tail.valid_length < end < stop and rules.punch:
        return _without_hidden(steps, head + data, start, block)
    return steps


def _without_hidden(steps: list[Step], visible: bytes, start: int, block: int) -> list[Step]:
    """`steps`, where the last block ends in what clients do not see yet: if all that they see of
    it is zeros, it need not be stored until the next write.
    """
    last = steps[-1]
    border = last.end - 1 - (last.end - 1 - start) % block
    if last.kind is not Kind.WRITE or not is_zero(visible[border - start :]):
        return steps
    before = [Step(Kind.WRITE, last.start, border)] if last.start < border else []
    return [*steps[:-1], *before, Step(Kind.HOLE, border, last.end)]


def _nothing_below(request: _Request, start: int, stop: int) -> bool:
    """Whether `[start, stop)` lies beyond the end of the file, or in a hole that need not be read
    to be known.
    """
    if request.before.st_size <= start:
        return True
    if not (request.rules.punch and request.file.is_seek_trusted):
        return False
    first = holes.next_data(request.file.fd, start)
    return first is None or first >= stop


def _act(request: _Request, step: Step) -> None:
    """Do one step. `request.done` and the counters follow what was really done, also if it raises
    OSError.
    """
    start, stop = max(step.start, request.offset), min(step.end, request.end)
    if step.kind is Kind.WRITE:
        _store(request, start, stop)
    elif step.kind is Kind.UNCHANGED:
        shared = max(0, stop - max(start, request.shared_from))
        request.count.shared_bytes += shared
        request.count.unchanged_bytes += stop - start - shared
        request.done = stop
    else:
        _make_hole(request, step, start, stop)


def _store(request: _Request, start: int, stop: int) -> None:
    """Write the part `[start, stop)` of the request as it is."""
    request.file.begin_content_change()
    request.file.forget_digests(start, stop)
    view = memoryview(request.data)
    while start < stop:
        taken = os.pwrite(
            request.file.fd, view[start - request.offset : stop - request.offset], start
        )
        if not taken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        request.file.tally.changed.mark(start, start + taken)
        start += taken
        request.changed = True
        request.count.written_bytes += taken
        request.done = start
        request.stored_end = max(request.stored_end, start)


def _make_hole(request: _Request, step: Step, start: int, stop: int) -> None:
    """Let the zero blocks of `step` be a hole; `[start, stop)` is the part that was received."""
    file = request.file
    limit = min(step.end, request.before.st_size)
    tail = file.stale_tail
    if tail is not None:
        uncover(file, tail, max(request.end, tail.valid_length), limit)
    if step.end > limit:
        request.new_holes.append((max(request.old_end, step.start), step.end))
    data = [(step.start, limit)] if step.start < limit else []
    if data and request.file.is_seek_trusted:
        data = list(holes.data_ranges(file.fd, step.start, limit, file.run))
    if data and not file.abilities.punch:
        _write_zeros(request, start, stop)
        return
    if data:
        file.begin_content_change()
        try:
            file.punch(step.start, step.end + -step.end % request.rules.block_bytes)
        except OSError as exc:
            # A file may have become append-only (chattr(1)) since it was opened.
            if not (syscalls.is_unsupported(exc) or exc.errno == errno.EPERM):
                raise
            _write_zeros(request, start, stop)
            return
        file.tally.changed.mark(start, stop)
        request.changed = True
    punched = sum(max(0, min(last, stop) - max(first, start)) for first, last in data)
    request.count.punched_bytes += punched
    request.count.hole_bytes += stop - start - punched
    request.done = stop


def _write_zeros(request: _Request, start: int, stop: int) -> None:
    """Store zeros where the file system cannot punch, unless they are there."""
    file = request.file
    if file.compares:
        old = os.pread(file.fd, stop - start, start)
        request.count.compared_bytes += len(old)
        if len(old) == stop - start and is_zero(old):
            request.count.unchanged_bytes += len(old)
            request.done = stop
            return
    _store(request, start, stop)


def _finish(request: _Request) -> OSError | None:
    """Bring size, times and the count of freed bytes up to what was done; returns the error if the
    size refuses.
    """
    fd, count = request.file.fd, request.count
    failure: OSError | None = None
    if request.done > max(request.offset, request.stored_end):
        request.file.begin_change()
        try:
            _grow(request)
        except OSError as exc:
            failure = exc
    if request.done > request.offset and not request.changed:
        try:
            request.file.touch()
        except OSError as exc:
            failure = exc
    _release_preallocation(request)
    if count.punched_bytes:
        count.freed_bytes = max(0, (request.before.st_blocks - os.fstat(fd).st_blocks) * 512)
    return failure


def _grow(request: _Request) -> None:
    """Let the file end where the zeros do that were received last.

    A file that can only be appended to cannot be truncated, not even to grow, so they are written.
    """
    end, reached = request.done, max(request.offset, request.stored_end)
    try:
        os.ftruncate(request.file.fd, end)
    except OSError as exc:
        request.count.hole_bytes -= end - reached
        request.done = reached
        if exc.errno != errno.EPERM:
            raise
        _store(request, reached, end)
    request.changed = True


def _release_preallocation(request: _Request) -> None:
    """Free what the file system allocated ahead of need in holes by which the file has grown."""
    file = request.file
    if not (request.rules.punch and file.leaves_blocks):
        return
    holes_made = request.new_holes
    if request.done > request.offset > request.before.st_size:
        holes_made = [(request.old_end, request.offset), *holes_made]
    for start, end in holes_made:
        free_blocks(file, start, min(end, request.done), request.rules.block_bytes)
