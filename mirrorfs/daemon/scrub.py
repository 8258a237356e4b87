"""A scrub: all files below a path are read from the disk, one after the other, and compared with
their digests.

Guarantees: it can be stopped anywhere, and goes on there; nothing that others do to the files waits
for it but for a moment, and what they do wins. Files in use are left out.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.backing import disk_reader, scan
from mirrorfs.backing.digest_file import GROUP_CHUNKS, Chunk
from mirrorfs.backing.paths import show
from mirrorfs.catalog import scrubs
from mirrorfs.daemon import scrub_files, scrub_repair, timed_calls
from mirrorfs.daemon.scrub_digests import Known, ScrubDigests
from mirrorfs.daemon.scrub_file import FileScrub, Found
from mirrorfs.daemon.scrub_record import Record
from mirrorfs.errors import MirrorfsError
from mirrorfs.mirror import chunk_digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.scan import Part
    from mirrorfs.catalog.scrubs import Scrub
    from mirrorfs.daemon.scrub_place import ScrubPlace
    from mirrorfs.daemon.scrub_repair import Outcome

_STEP_SECONDS = 0.05
# A request of so much may come at once.
_BURST_SECONDS = 0.25

GOOD = "good"
DAMAGED = "damaged"  # or unreadable
IN_USE = "in-use"
FAILED = "failed"


@dataclass(slots=True)
class Result:
    """What was found of one file. `error` says why it could not be scrubbed."""

    path: bytes
    size: int
    found: Found = field(default_factory=lambda: Found(0, 0))
    is_changed_beside: bool = False
    is_in_use: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""

    @property
    def repaired_chunks(self) -> int:
        """How many damaged chunks are good again."""
        return sum(one.result == scrub_repair.REPAIRED for one in self.outcomes)

    @property
    def state(self) -> str:
        """One word for it."""
        repaired = {one.chunk for one in self.outcomes if one.result == scrub_repair.REPAIRED}
        bad = [*self.found.damaged, *self.found.unreadable]
        if any(chunk not in repaired for start, end in bad for chunk in range(start, end)):
            return DAMAGED
        return FAILED if self.error else IN_USE if self.is_in_use else GOOD


class Pace:
    """How fast to read, and until when: `rate` in bytes a second, `seconds` from now on; None is no
    limit. `stop` may be called by a signal.
    """

    def __init__(self, rate: int | None, seconds: float | None) -> None:
        self._rate = rate
        self._end = None if seconds is None else time.monotonic() + seconds
        self._free_at = time.monotonic()
        self.is_stopped = False

    def stop(self) -> None:
        """Read nothing more."""
        self.is_stopped = True

    def is_over(self) -> bool:
        """Whether to stop."""
        return self.is_stopped or (self._end is not None and time.monotonic() >= self._end)

    def may_read(self, count: int) -> bool:
        """Wait until so many bytes may be read; returns whether to go on."""
        if self._rate is not None and count:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_SECONDS) + count / self._rate
            return self.may_wait(self._free_at - now)
        return not self.is_over()

    def may_wait(self, seconds: float) -> bool:
        """Wait so long; returns whether to go on."""
        end = time.monotonic() + seconds
        while not self.is_over() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _STEP_SECONDS))
        return not self.is_over()


class Scrubber:
    """Of all at or below the path `below` in a backing folder. `source` has what damaged chunks are
    repaired from: a file, or a folder with the same paths as there are below `below`. `tell` is
    called with each file's result, `warn` with other lines for the user, `progress` with how many
    bytes were passed, and how many there are.
    """

    def __init__(
        self,
        where: ScrubPlace,
        below: bytes,
        pace: Pace,
        source: bytes | None,
        tell: Callable[[Result], None],
        warn: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> None:
        self._where = where
        self._below = below
        self._pace = pace
        self._source = source
        self._tell = tell
        self._progress = progress
        self.unread_folders = 0
        self._trust = scan.HoleTrust()
        self._seen: set[tuple[int, int, int]] = set()
        self._record = Record(where, below, warn)
        self._warn = warn
        self._total = 0

    @property
    def is_kept(self) -> bool:
        """Whether a scrub that is stopped goes on the next time."""
        return self._record.is_kept

    def run(self) -> Scrub:
        """Go on with the scrub that was stopped, or begin one; returns it as it is then. Raises
        MirrorfsError and OSError.
        """
        record, scrub = self._record, self._record.scrub
        try:
            names = self._where.folder.names()
            files = scrub_files.find(self._where.place.backing, self._below, self._pace.is_over)
            self.unread_folders = len(files.unread)
            for folder, error in files.unread.items():
                self._warn(f"{show(folder or self._where.place.backing)}: {error}")
            scrub.counts.small_files = files.small
            begin = scrub.next or scrubs.Place(b"")
            waiting = {path: size for path, size in files.worth.items() if path >= begin.path}
            self._total = sum(waiting.values())
            for path, size in waiting.items():
                place = begin if path == begin.path else scrubs.Place(path)
                if self._pace.is_over():
                    record.note(place, scrubs.STOPPED)
                    return scrub
                if not self._scrub(place, size):
                    record.note(scrub.next, scrubs.STOPPED)
                    return scrub
            if self._pace.is_over():  # while looking for files
                record.note(begin, scrubs.STOPPED)
                return scrub
            if not files.unread:
                record.keep_damage(files.worth)
                if not self._below:
                    scrub_files.remove_orphans(self._where, names, files.worth)
            record.note(None, scrubs.COMPLETE)
            return scrub
        finally:
            record.close()

    def _scrub(self, place: scrubs.Place, size: int) -> bool:
        """Scrub a file, and tell of it; False if it was stopped."""
        counts = self._record.scrub.counts
        result = Result(place.path, size)
        is_over = True
        try:
            fd = disk_reader.open_file(place.path, self._where.root_fd)
            try:
                is_over = self._read(fd, place, result)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return True  # removed just now
        except OSError as exc:
            result.error = exc.strerror or str(exc)
            counts.failed_files += 1
        if is_over:
            counts.files += 1
            self._record.note(scrubs.Place(place.path + b"\0"))
        self._tell(result)
        return is_over

    def _read(self, fd: int, place: scrubs.Place, result: Result) -> bool:
        counts = self._record.scrub.counts
        digests = ScrubDigests(self._where, fd, self._pace.may_wait)
        status = digests.status
        if status.nlink > 1:
            if status.key in self._seen:
                return True
            self._seen.add(status.key)
        if self._pace.is_over():
            return False
        if digests.known is Known.BUSY:
            result.is_in_use = True
            counts.busy_files += 1
            return True
        if digests.known is Known.CHANGED:
            result.is_changed_beside = True
            counts.changed_files += 1
        stamp = " ".join(f"{number:x}" for number in (status.ino, *digests.stamp))
        first = place.chunk if place.stamp == stamp else 0
        result.found = Found(first, first)
        folder = os.path.dirname(os.path.join(self._where.place.backing, place.path))

        def noted(found: Found) -> None:
            result.found.add(found)
            span = found.first, found.stop
            identity = digests.identity
            damaged, unreadable = found.damaged, found.unreadable
            self._record.note_damage(place.path, identity, span, damaged, unreadable)
            self._count(found)
            self._record.note(scrubs.Place(place.path, found.stop, stamp))

        file = FileScrub(digests, fd, self._trust.has(fd, folder), self._may_read, noted)
        is_well = file.run(first) is Known.WELL
        if file.is_stopped or (self._pace.is_over() and not is_well):
            return False
        if not is_well:
            result.is_in_use = True
            counts.busy_files += 1
            return True
        if self._source is not None:
            self._repair(digests, fd, self._source, result)
        if digests.has_noted:
            self._record.note_known(place.path, digests.known_chunks())
        return True

    def _count(self, found: Found) -> None:
        counts = self._record.scrub.counts
        counts.read_bytes += found.read_bytes
        counts.learned_chunks += found.learned_chunks
        counts.well_again_chunks += found.well_again_chunks
        counts.damaged_chunks += sum(stop - start for start, stop in found.damaged)
        counts.unreadable_chunks += sum(stop - start for start, stop in found.unreadable)

    def _may_read(self, part: Part) -> bool:
        length = part.end - part.start
        self._progress(length, self._total)
        return self._pace.may_read(length if part.kind == scan.READ else 0)

    def _repair(self, digests: ScrubDigests, fd: int, source: bytes, result: Result) -> None:
        chunks = list(_damaged(digests))
        if not chunks:
            return
        below = result.path[len(self._below) :].strip(b"/")
        path = os.path.join(source, below) if below else source
        try:
            if not below and os.path.isdir(path):
                path = os.path.join(path, os.path.basename(result.path))
            source_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            self._warn(f"{show(path)}: {exc.strerror}; {show(result.path)} is not repaired")
            return
        try:
            target_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            try:
                for chunk in chunks:
                    if self._pace.is_stopped:
                        break
                    outcome = scrub_repair.repair(self._where, digests, target_fd, source_fd, chunk)
                    if not outcome.result:
                        result.is_in_use = True
                        break
                    result.outcomes.append(outcome)
                    if outcome.result == scrub_repair.REPAIRED:
                        span = chunk, chunk + 1
                        self._record.note_damage(result.path, digests.identity, span, [], [])
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)
        self._record.scrub.counts.repaired_chunks += result.repaired_chunks
        if result.repaired_chunks:
            self._forget_cached(result.path)

    def _forget_cached(self, path: bytes) -> None:
        """Let the mount's page cache have what the disk has."""
        mount = self._where.place.mount
        if mount is not None and not self._where.place.trouble:
            with contextlib.suppress(OSError, MirrorfsError):
                timed_calls.call(_drop_cached, os.path.join(mount.path, path))


def _drop_cached(path: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def _damaged(digests: ScrubDigests) -> Iterator[int]:
    """The damaged chunks of a file."""
    for number in range(-(-chunk_digests.count(digests.stamp.size) // GROUP_CHUNKS)):
        states = digests.group(number).states
        place = states.find(Chunk.DAMAGED)
        while place >= 0:
            yield number * GROUP_CHUNKS + place
            place = states.find(Chunk.DAMAGED, place + 1)
