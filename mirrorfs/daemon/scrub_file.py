"""Reads one file from the disk, and compares it with what its digest file says; what is unknown is
learned.

Guarantees: memory does not grow with the file; what was found is noted group by group, and is told
only if it was noted, which is to say that nobody has changed the file meanwhile
(`scrub_digests`). A chunk that is not what it was is read once more before it is called damaged.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import scan
from mirrorfs.backing.digest_file import DIGEST_BYTES, GROUP_CHUNKS, Chunk, Group
from mirrorfs.backing.disk_reader import BLOCK_BYTES, UNREADABLE, DiskReader
from mirrorfs.catalog import ranges
from mirrorfs.daemon.scrub_digests import Known
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.scan import Part
    from mirrorfs.catalog.ranges import Ranges
    from mirrorfs.daemon.scrub_digests import ScrubDigests

_HOLE = "hole"
# Noted together, as that costs the disk some syncs: 4 GiB, 1.1 MiB of memory.
_BATCH_GROUPS = 16
_WINDOW_CHUNKS = scan.WINDOW_BYTES // CHUNK_BYTES
_LOOK_BYTES = 64 << 20
# A disk that refuses so many chunks in a row, 64 MiB, has died.
_MAX_UNREADABLE = 1024
# Of so many unreadable chunks the exact places are looked for: a disk may try each for long.
_MAX_NARROWED = 64


class Bad(NamedTuple):
    """What cannot be read: `[start, end)` in bytes, and why."""

    start: int
    end: int
    error: str


@dataclass(slots=True)
class Found:
    """What was found in chunks `[first, stop)` of a file. Ranges of chunks."""

    first: int
    stop: int
    read_bytes: int = 0
    learned_chunks: int = 0
    well_again_chunks: int = 0
    damaged: Ranges = field(default_factory=list)
    unreadable: Ranges = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)  # in the unreadable ones

    def add(self, other: Found) -> None:
        """Take what was found after this."""
        self.stop = other.stop
        self.read_bytes += other.read_bytes
        self.learned_chunks += other.learned_chunks
        self.well_again_chunks += other.well_again_chunks
        self.damaged = ranges.united(self.damaged, other.damaged)
        self.unreadable = ranges.united(self.unreadable, other.unreadable)
        self.add_bad(other.bad)

    def add_bad(self, more: list[Bad]) -> None:
        """Take what cannot be read after that."""
        for one in more:
            last = self.bad[-1] if self.bad else None
            if last is not None and (last.end, last.error) == (one.start, one.error):
                self.bad[-1] = Bad(last.start, one.end, one.error)
            else:
                self.bad.append(one)


class FileScrub:
    """Of the file `fd`. `may_read` is called with what is about to be read, or to be passed over as
    a hole, and waits as long as it wants; False to stop. `noted` is called with what was found and
    noted, again and again.
    """

    def __init__(
        self,
        digests: ScrubDigests,
        fd: int,
        tells_holes: bool,
        may_read: Callable[[Part], bool],
        noted: Callable[[Found], None],
    ) -> None:
        self._digests = digests
        self._fd = fd
        self._tells_holes = tells_holes
        self._may_read = may_read
        self._noted = noted
        self._size = digests.stamp.size
        self._groups: dict[int, Group] = {}
        self._found = Found(0, 0)
        self._reader: DiskReader | None = None
        self._is_stopped = False
        self._narrowed = 0
        self._refused = 0  # chunks in a row

    def run(self, first: int) -> Known:
        """Read from the chunk `first` on: WELL if all was noted, up to where it was stopped; BUSY
        if something has begun to change the file. Raises OSError.
        """
        self._found = Found(first, first)
        self._reader = DiskReader(self._fd)
        try:
            for part, content, error in self._reader.read(self._parts(first)):
                self._take(part, content, error)
                is_due = self._found.stop - self._found.first >= _BATCH_GROUPS * GROUP_CHUNKS
                if is_due and not self._note():
                    return Known.BUSY
                # A copy that has begun shall not wait for a disk that reads what is of no use.
                if _is_time_to_look(part) and not self._digests.is_undisturbed():
                    return Known.BUSY
            return Known.WELL if self._note() else Known.BUSY
        finally:
            self._reader.close()

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped before the end."""
        return self._is_stopped

    def _parts(self, first: int) -> Iterator[Part]:
        """The rest of the file from a chunk on; no part reaches from one group into the next."""
        place, end = first, chunk_digests.count(self._size)
        start = first * CHUNK_BYTES
        data = scan.data_units(self._fd, self._size, CHUNK_BYTES, self._tells_holes, start)
        for low, high in data:
            yield from self._cut(place, low, _HOLE)
            yield from self._cut(low, high, scan.READ)
            place = high
            if self._is_stopped:
                return
        yield from self._cut(place, end, _HOLE)

    def _cut(self, first: int, stop: int, kind: str) -> Iterator[Part]:
        while first < stop:
            limit = (first // GROUP_CHUNKS + 1) * GROUP_CHUNKS
            if kind == scan.READ:
                limit = min(limit, first + _WINDOW_CHUNKS)
            limit = min(limit, stop)
            part = scan.Part(first * CHUNK_BYTES, min(limit * CHUNK_BYTES, self._size), kind)
            if self._is_stopped or not self._may_read(part):
                self._is_stopped = True
                return
            yield part
            first = limit

    def _take(self, part: Part, content: memoryview, error: OSError | None) -> None:
        first, stop = part.start // CHUNK_BYTES, chunk_digests.count(part.end)
        if part.kind == _HOLE:
            self._take_hole(first, stop)
        elif error is not None:
            self._take_unreadable(first, stop, error)
        else:
            self._found.read_bytes += len(content)
            self._compare(first, stop, chunk_digests.digests(content, self._digests.seed))
        self._found.stop = stop

    def _group(self, first: int, stop: int) -> tuple[Group, int, int]:
        number, place = divmod(first, GROUP_CHUNKS)
        if number not in self._groups:
            # Of those before nothing is to be noted, if they are as they were.
            for other in [one for one, group in self._groups.items() if not group.is_changed]:
                del self._groups[other]
            self._groups[number] = self._digests.group(number)
        return self._groups[number], place, place + stop - first

    def _length(self, chunk: int) -> int:
        return min(CHUNK_BYTES, self._size - chunk * CHUNK_BYTES)

    def _zeros(self, chunk: int) -> bytes:
        return chunk_digests.of_zeros(self._length(chunk), self._digests.seed)

    def _take_hole(self, first: int, stop: int) -> None:
        group, place, limit = self._group(first, stop)
        states = group.states[place:limit]
        zeros = bytes([Chunk.ZEROS]) * (stop - first)
        if states == zeros:
            return
        if not states.strip(bytes([Chunk.UNKNOWN, Chunk.ZEROS])):
            self._found.learned_chunks += states.count(Chunk.UNKNOWN)
            group.set(place, zeros)
            return
        for chunk in range(first, stop):
            self._judge(group, chunk, self._zeros(chunk), is_hole=True)

    def _compare(self, first: int, stop: int, digests: bytes) -> None:
        group, place, limit = self._group(first, stop)
        states, known = group.get(place, limit)
        if digests == known and states.count(Chunk.KNOWN) == stop - first:
            return
        for chunk in range(first, stop):
            start = (chunk - first) * DIGEST_BYTES
            self._judge(group, chunk, digests[start : start + DIGEST_BYTES], is_hole=False)

    def _judge(self, group: Group, chunk: int, digest: bytes, is_hole: bool) -> None:
        """Compare the digest of a chunk with what is known of it."""
        place = chunk % GROUP_CHUNKS
        state = group.states[place]
        zeros = self._zeros(chunk)
        if state == Chunk.UNKNOWN:
            self._found.learned_chunks += 1
            self._set_good(group, place, digest, digest == zeros)
            return
        known = zeros if state == Chunk.ZEROS else group.get(place, place + 1)[1]
        if digest != known and not is_hole:
            read = self._read_again(chunk)
            if read is None:
                self._set_bad(group, place, known)
                return
            digest = read
        if digest != known:
            _append(self._found.damaged, chunk)
            self._set_bad(group, place, known)
        elif state == Chunk.DAMAGED:
            self._found.well_again_chunks += 1
            self._set_good(group, place, digest, digest == zeros)

    @staticmethod
    def _set_good(group: Group, place: int, digest: bytes, is_zeros: bool) -> None:
        if is_zeros:
            group.set(place, bytes([Chunk.ZEROS]))
        else:
            group.set(place, bytes([Chunk.KNOWN]), digest)

    @staticmethod
    def _set_bad(group: Group, place: int, known: bytes) -> None:
        if group.states[place] != Chunk.DAMAGED:
            group.set(place, bytes([Chunk.DAMAGED]), known)

    def _read_again(self, chunk: int) -> bytes | None:
        """The digest of a chunk that is read by itself; None if it cannot be read, which is noted
        then.
        """
        assert self._reader is not None
        start = chunk * CHUNK_BYTES
        try:
            content = self._reader.once(start, start + self._length(chunk))
        except OSError as exc:
            if exc.errno not in UNREADABLE:
                raise
            self._refused += 1
            if self._refused > _MAX_UNREADABLE:
                raise OSError(
                    exc.errno,
                    "cannot be read over so long a stretch that the disk seems to be dead",
                ) from None
            _append(self._found.unreadable, chunk)
            self._found.add_bad(self._narrow(start, start + self._length(chunk), exc))
            return None
        self._refused = 0
        return chunk_digests.digests(content, self._digests.seed)

    def _narrow(self, start: int, end: int, error: OSError) -> list[Bad]:
        """Which blocks of a chunk cannot be read."""
        assert self._reader is not None
        self._narrowed += 1
        whole = [Bad(start, end, error.strerror or str(error))]
        if self._narrowed > _MAX_NARROWED:
            return whole
        found: list[Bad] = []
        for place in range(start, end, BLOCK_BYTES):
            limit = min(place + BLOCK_BYTES, end)
            try:
                self._reader.once(place, limit)
            except OSError as exc:
                text, begin = exc.strerror or str(exc), place
                if found and (found[-1].end, found[-1].error) == (place, text):
                    begin = found.pop().start
                found.append(Bad(begin, limit, text))
        return found or whole

    def _take_unreadable(self, first: int, stop: int, error: OSError) -> None:
        if error.errno not in UNREADABLE:
            raise error
        group, _, _ = self._group(first, stop)
        for chunk in range(first, stop):
            digest = self._read_again(chunk)
            place = chunk % GROUP_CHUNKS
            if digest is not None:
                self._found.read_bytes += self._length(chunk)
                self._judge(group, chunk, digest, is_hole=False)
            elif group.states[place] != Chunk.UNKNOWN:
                is_zeros = group.states[place] == Chunk.ZEROS
                known = self._zeros(chunk) if is_zeros else group.get(place, place + 1)[1]
                self._set_bad(group, place, known)

    def _note(self) -> bool:
        """Note what was found so far; False if somebody has begun to change the file."""
        found = self._found
        changed = {number: one for number, one in self._groups.items() if one.is_changed}
        if changed:
            if not self._digests.note(changed):
                return False
        elif (found.damaged or found.unreadable) and not self._digests.is_as_it_was():
            return False
        self._groups = {max(self._groups): self._groups[max(self._groups)]} if self._groups else {}
        if found.damaged or found.unreadable:
            # A good copy in the page cache would be compared with, and called unchanged. Of pages
            # that lie together (folios) none goes but with all others: so all of the file does.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._noted(found)
        self._found = Found(found.stop, found.stop)
        return True


def _append(chunks: Ranges, chunk: int) -> None:
    """Add a chunk that comes after those."""
    if chunks and chunks[-1][1] == chunk:
        chunks[-1] = chunks[-1][0], chunk + 1
    else:
        chunks.append((chunk, chunk + 1))


def _is_time_to_look(part: Part) -> bool:
    is_at_mark = part.start // _LOOK_BYTES != part.end // _LOOK_BYTES
    return is_at_mark and part.kind == scan.READ
