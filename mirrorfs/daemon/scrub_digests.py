"""The digest file of one file that a scrub reads: looked at without its lock, and changed under it,
for a moment.

Guarantees, in this order: what was read is durable, then the digest file is marked as open, then
what was found is durable in it, then the mark is taken away. A crash leaves it as it was, or open.
Nothing is noted unless, under the lock, the file and its digest file have the stamp that they had
before anything was read: whoever begins to change the content marks the digest file before.
"""

from __future__ import annotations

import os
import time
from enum import Enum
from typing import TYPE_CHECKING

from mirrorfs.backing.digest_file import GROUP_CHUNKS, Chunk, Group, Header, Mark
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.known_digests import stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirrorfs.backing.digest_file import DigestFile, Identity, Stamp
    from mirrorfs.daemon.scrub_place import ScrubPlace

# A daemon notes what clients did besides the content (chmod) two seconds later, and seals a session
# as soon as its data is durable.
_PATIENCE_SECONDS = 6.0
_STEP_SECONDS = 0.1
_TICK_NS = 20_000_000


class Known(Enum):
    """What is known of a file before it is read."""

    WELL = "its digest file has its stamp"
    NOTHING = "it has none, or one that a crash has left"
    CHANGED = "its digest file has another stamp"
    BUSY = "a session is under way"


class ScrubDigests:
    """Of the file `fd`. `may_wait` sleeps for some seconds, and says whether to go on."""

    def __init__(self, where: ScrubPlace, fd: int, may_wait: Callable[[float], bool]) -> None:
        self._where = where
        self._fd = fd
        self._may_wait = may_wait
        self.status = statx(fd)
        self.identity: Identity = where.identity(self.status)
        self.seed = where.folder.seed
        self._header: Header | None = None
        self.has_noted = False
        self.known = self._look_twice()

    @property
    def stamp(self) -> Stamp:
        """The stamp of the file before it is read."""
        return stamp_of(self.status)

    def _look_twice(self) -> Known:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            found = self._look()
            is_over = not self._where.guard.is_served or time.monotonic() >= end
            if found is not Known.CHANGED or is_over or not self._may_wait(_STEP_SECONDS):
                return found
            self.status = statx(self._fd)

    def _look(self) -> Known:
        self._header = self._look_at_header()
        if self._header is None:
            return Known.NOTHING
        if self._header.mark is Mark.OPEN:
            # One that a crash has left is nobody's.
            try:
                file = self._where.folder.try_open(self.identity)
            except BlockingIOError:
                return Known.BUSY
            if file is not None:
                file.close()
            return Known.NOTHING
        return Known.WELL if self._header.stamp == self.stamp else Known.CHANGED

    def _look_at_header(self) -> Header | None:
        file = self._where.folder.look(self.identity)
        if file is None:
            return None
        try:
            return file.header(self.identity, self.seed)
        finally:
            file.close()

    def group(self, number: int) -> Group:
        """What is known of a group of chunks."""
        file = self._where.folder.look(self.identity) if self.known is Known.WELL else None
        if file is None:
            return Group()
        try:
            return file.group(number, self.seed)
        finally:
            file.close()

    def known_chunks(self) -> int:
        """Of how many chunks the digest is known, and right."""
        groups = range(-(-chunk_digests.count(self.stamp.size) // GROUP_CHUNKS))
        found = (self.group(number).states for number in groups)
        return sum(states.count(Chunk.KNOWN) + states.count(Chunk.ZEROS) for states in found)

    def is_undisturbed(self) -> bool:
        """Whether nobody has begun to change the file, nor its digest file."""
        return self.is_as_it_was() and self._look_at_header() == self._header

    def is_as_it_was(self) -> bool:
        """Whether the file has the stamp that it had."""
        return stamp_of(statx(self._fd)) == self.stamp

    def note(self, groups: Mapping[int, Group]) -> bool:
        """Make `groups` durable, as what is known of a content that has not changed; False if it
        may have, or a session has begun: nothing is noted then. Raises OSError.
        """
        is_new = self.known is not Known.WELL
        if is_new and not self._is_quiet():
            return False
        if is_new:
            # What changes a file twice within a tick of the clock may leave one stamp for both.
            if 0 <= time.time_ns() - self.stamp.ctime_ns < _TICK_NS:
                time.sleep(_TICK_NS / 1e9)
            os.fsync(self._fd)
        file = self._locked()
        if file is None:
            return False
        try:
            if not self.is_as_it_was() or (is_new and not self._where.guard.is_quiet(self.status)):
                return False
            if is_new:
                os.ftruncate(file.fd, 0)
            closed = Header(Mark.CLOSED, self.identity, self.seed, self.stamp)
            self._store(file, groups, closed, is_new)
            if not self._where.folder.has(file, self.identity) or not self.is_as_it_was():
                # Somebody has waited too long for the lock, and goes on without.
                self.set_open(file)
                return False
        finally:
            file.close()
        self._header, self.known, self.has_noted = closed, Known.WELL, True
        return True

    def _is_quiet(self) -> bool:
        seconds = self._where.guard.wait_seconds(self.status)
        if seconds and not self._may_wait(seconds):
            return False
        return self._where.guard.is_quiet(self.status)

    def _locked(self) -> DigestFile | None:
        """The digest file, if it says what it said before; a new one where there was none."""
        folder = self._where.folder
        try:
            file = folder.try_open(self.identity)
        except BlockingIOError:
            return None
        if file is None:
            if self._header is not None or self._has_name():
                return None
            return folder.make(self.identity)
        if file.header(self.identity, self.seed) == self._header:
            return file
        file.close()
        return None

    def _has_name(self) -> bool:
        file = self._where.folder.look(self.identity)
        if file is not None:
            file.close()
        return file is not None

    def reopened(self) -> DigestFile | None:
        """The digest file, locked, if it and the file are as they were."""
        file = self._locked() if self.known is Known.WELL else None
        if file is not None and not self.is_as_it_was():
            file.close()
            return None
        return file

    def set_open(self, file: DigestFile) -> None:
        """Mark the digest file as open, durably."""
        file.set_header(Header(Mark.OPEN, self.identity, self.seed, self.stamp))
        file.sync()

    def _store(
        self, file: DigestFile, groups: Mapping[int, Group], closed: Header, is_new: bool
    ) -> None:
        self.set_open(file)
        try:
            for number, group in groups.items():
                file.set_group(number, group, self.seed)
        except OSError:
            if not is_new:
                # On a full disk, say. Of a group that is half written nothing is known; what the
                # others say of damage must not be lost.
                self.close_with(file, closed)
            raise
        self.close_with(file, closed)

    def close_with(self, file: DigestFile, closed: Header) -> None:
        """Close the digest file with this header, when all in it is durable."""
        file.sync()
        file.set_header(closed)
        file.sync()

    def move_on(self, file: DigestFile) -> None:
        """Close the digest file with the stamp that the file has now: what has moved it was
        done here, under the lock.
        """
        self.status = statx(self._fd)
        closed = Header(Mark.CLOSED, self.identity, self.seed, self.stamp)
        self.close_with(file, closed)
        self._header, self.has_noted = closed, True
