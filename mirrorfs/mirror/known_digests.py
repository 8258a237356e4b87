"""What is known of the chunks of one file while a session changes it: the digests of what lies
below, taken as the data passes.

Guarantees: a digest is that of what the file holds below, or it is not known; whatever changes a
chunk in another way than by giving it whole makes it unknown first. Before the first change of a
session the digest file is durably marked as open (`begin`); `sealing` closes it. A crash in between
leaves it open: nothing is known then. An error of the disk that it is on costs the digests, and
concerns no client.

Called under the lock of the open file, except where it says otherwise; takes its own lock inside.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mirrorfs.backing.digest_file import Chunk, Identity, Stamp
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import chunk_digests, digest_opening
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.chunk_digests import DIGEST_BYTES
from mirrorfs.mirror.digest_groups import DigestGroups
from mirrorfs.mirror.piecewise import Piecewise

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.digest_file import Folder
    from mirrorfs.backing.statx import Status
    from mirrorfs.mirror.plan import Data

# Digests of files that are smaller are not worth a file.
WORTH_BYTES = 1 << 20
# Nor are those of larger ones: 16 TiB.
MAX_BYTES = 1 << 44
# Of more that becomes zeros at once nothing is known, until it is read: 16 GiB.
_MAX_ZEROS = 1 << 18
_NO_END = 1 << 63
_KNOWN, _ZEROS = bytes([Chunk.KNOWN]), bytes([Chunk.ZEROS])


def stamp_of(status: Status) -> Stamp:
    """The stamp of a file with this status."""
    return Stamp(status.size, status.mtime_ns, status.ctime_ns)


class KnownDigests:
    """Of one file. `folder` gives the folder of digest files, None where there is none;
    `restamped` what a stamp has become by what clients did to the file besides its content.
    `is_new` says that the file was just made. Unless `is_kept`, nothing is known from the first
    change on.
    """

    def __init__(
        self,
        folder: Callable[[], Folder | None],
        identity: Identity,
        restamped: Callable[[Stamp], Stamp],
        is_new: bool,
        is_kept: bool = True,
    ) -> None:
        self.identity = identity
        self._folder = folder
        self._restamped = restamped
        self._is_new = is_new
        self._is_kept = is_kept
        self._lock = threading.Lock()
        self._groups = DigestGroups(folder, identity)
        self._size = 0  # of the file below, in bytes
        self._is_begun = False
        self._pieces = Piecewise()
        # A chunk of which nothing is known, -1 for none in particular.
        self._forgotten = -1
        self._is_taking = False  # it is worth it
        # Grows whenever the content is about to change, so that `sealing` notices.
        self.epoch = 0
        # Size and mtime as the last client left them; None while one changes them.
        self.left: tuple[int, int] | None = None
        # Something else has changed the file since its digests were taken.
        self.is_changed_beside = False
        self.repaired_chunks = 0  # damaged ones that were given anew
        # Of how many chunks the digest was known when it was closed last; None if none are kept.
        self.known_chunks: int | None = None

    def note_left(self, fd: int) -> None:
        """Note how the last client leaves the file `fd`."""
        status = statx(fd, ask=False)
        self.left = status.size, status.mtime_ns

    def note_stamped(self, mtime_ns: int) -> None:
        """Note that a client has set the mtime."""
        if self.left is not None:
            self.left = self.left[0], mtime_ns

    def begin(self, fd: int) -> None:
        """Prepare for a change of the content of the file `fd`, be it the first in its session or
        not.
        """
        with self._lock:
            self.epoch += 1
            try:
                if not self._is_begun:
                    self._is_begun = True
                    self._begin(fd)
                    if not self._is_kept or self._size > MAX_BYTES:
                        self._groups.lose()
                elif self.left is not None:
                    self._look_beside(fd, self.left)
            except OSError:
                self._groups.lose()
            self.left = None

    def _begin(self, fd: int) -> None:
        status = statx(fd)
        self._size = status.size
        folder = None if self._is_new and status.btime_ns else self._folder()
        if folder is None:
            return
        try:
            file, is_of_another = digest_opening.open_marked(
                folder, self.identity, lambda stamp: self._restamped(stamp) == stamp_of(status)
            )
        except OSError:
            digest_opening.disown(folder, self.identity, fd)
            return
        self.is_changed_beside = self.is_changed_beside or is_of_another
        if file is not None:
            self._groups.adopt(file)

    def _look_beside(self, fd: int, left: tuple[int, int]) -> None:
        """Forget all that is known, if the file is not as the last client has `left` it."""
        status = statx(fd, ask=False)
        if left != (status.size, status.mtime_ns):
            self.is_changed_beside = True
            self._cut(0)
            self._size = status.size

    def took(self, offset: int, data: Data, is_changed: bool, is_zero: bool) -> None:
        """Note that the file holds `data` at `offset` (bytes) now, below; not all of that before,
        if `is_changed`; nothing but zeros, if `is_zero`.
        """
        end = offset + len(data)
        with self._lock:
            has_grown = end > self._size
            if has_grown:
                self._grow(offset, end)
            if self._groups.is_lost or not (self._is_taking or self._is_worth(end)):
                return
            self._is_taking = True
            # More may be appended to the last chunk.
            is_last = end == self._size and not has_grown
            try:
                if offset // CHUNK_BYTES == end // CHUNK_BYTES and not is_last:
                    self._take_piece(offset, data, is_changed)
                else:
                    self._take(offset, data, is_changed, is_zero, is_last)
            except OSError:
                self._groups.lose()

    def _is_worth(self, end: int) -> bool:
        return max(end, self._size) >= CHUNK_BYTES or not self._groups.is_empty

    def _take(
        self, offset: int, data: Data, is_changed: bool, is_zero: bool, is_last: bool
    ) -> None:
        end = offset + len(data)
        first, stop = -(-offset // CHUNK_BYTES), end // CHUNK_BYTES
        if is_last and end % CHUNK_BYTES:
            stop += 1
        head = min(first * CHUNK_BYTES, end)
        if offset < head:
            self._take_piece(offset, data[: head - offset], is_changed)
        if first < stop:
            self._take_whole(first, stop, data[head - offset :], is_changed, is_zero)
        rest = max(stop * CHUNK_BYTES, head)
        if rest < end:
            self._take_piece(rest, data[rest - offset :], is_changed)

    def _take_whole(
        self, first: int, stop: int, data: Data, is_changed: bool, is_zero: bool
    ) -> None:
        self._pieces.forget(first, stop)
        if not is_changed and self._groups.are_sure(first, stop):
            return
        if is_zero:
            self._know_zeros(first, stop)
        else:
            self._know(first, data[: (stop - first) * CHUNK_BYTES])

    def _take_piece(self, start: int, piece: Data, is_changed: bool) -> None:
        chunk = start // CHUNK_BYTES
        if is_changed:
            self._forget(chunk)
        whole = self._pieces.add(start, piece)
        if whole is not None and not self._groups.are_sure(chunk, chunk + 1):
            self._know(chunk, whole)

    def _know(self, first: int, data: Data) -> None:
        """The chunks from `first` on hold `data`."""
        found = self._digests(data)
        chunks = len(found) // DIGEST_BYTES
        self._note_given(first, first + chunks)
        self._groups.set(first, _KNOWN * chunks, found)

    def _know_zeros(self, first: int, stop: int) -> None:
        self._note_given(first, stop)
        limit = min(stop, first + _MAX_ZEROS)
        self._groups.set_all(first, limit, Chunk.ZEROS)
        self._groups.forget(limit, stop)

    def _note_given(self, first: int, stop: int) -> None:
        self.repaired_chunks += self._groups.count(first, stop, Chunk.DAMAGED)
        self._forgotten = -1

    def _forget(self, chunk: int) -> None:
        """Nothing is known of a chunk, which often is what was found for the piece before."""
        if chunk != self._forgotten:
            self._groups.forget(chunk, chunk + 1)
            self._forgotten = chunk

    def _digests(self, data: Data) -> bytes:
        return chunk_digests.digests(data, self._groups.seed())

    def matching(self, offset: int, data: Data) -> bytes:
        """Which chunks of `data`, which begins at `offset` (bytes), the file surely holds, by their
        digests: a byte each, 1 or 0. None at all, if these are no whole chunks.
        """
        first, ragged = divmod(offset, CHUNK_BYTES)
        end = offset + len(data)
        with self._lock:
            if ragged or (end % CHUNK_BYTES and end != self._size):
                return b""
            stop = chunk_digests.count(end)
            if not self._groups.count(first, stop, Chunk.KNOWN):
                return b""
            states, known = self._groups.get(first, stop)
            if len(states) < stop - first:
                return b""
            found = self._digests(data)
            places = range(0, len(found), DIGEST_BYTES)
            return bytes(
                state == Chunk.KNOWN
                and found[place : place + DIGEST_BYTES] == known[place : place + DIGEST_BYTES]
                for state, place in zip(states, places, strict=True)
            )

    def changed(self, start: int, end: int) -> None:
        """Note that `[start, end)` (bytes) is about to be changed."""
        with self._lock:
            first, stop = start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
            self._pieces.forget(first, stop)
            self._groups.forget(first, stop)

    def shared(self, start: int, end: int) -> None:
        """Note that `[start, end)` (bytes) is that of another file now, also where it has grown."""
        with self._lock:
            first, stop = start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
            self._pieces.forget(first, stop)
            self._groups.forget(first, stop)
            first, stop = -(-start // CHUNK_BYTES), end // CHUNK_BYTES
            if first < stop and not self._groups.is_empty:
                self._note_given(first, stop)
                self._groups.set_all(first, stop, Chunk.UNKNOWN)

    def zeroed(self, start: int, end: int) -> None:
        """Note that `[start, end)` (bytes) is zeros now, as far as the file reaches."""
        with self._lock:
            end = min(end, self._size)
            if start >= end:
                return
            first, stop = start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
            self._pieces.forget(first, stop)
            self._groups.forget(first, first + 1)
            self._groups.forget(stop - 1, stop)
            first, stop = -(-start // CHUNK_BYTES), end // CHUNK_BYTES
            if end == self._size:
                stop = chunk_digests.count(end)
            if first < stop and self._is_worth(end):
                self._know_zeros(first, stop)

    def resized(self, size: int) -> None:
        """Note that the file ends at `size` (bytes), with zeros in what is new."""
        with self._lock:
            if size < self._size:
                self._cut(size)
            else:
                self._grow(size, size)

    def cloned(self, source_fd: int) -> None:
        """Note that all of the content is about to be that of another file, which is not being
        written: its digests hold for this one, too.
        """
        status = statx(source_fd)
        with self._lock:
            self._cut(0)
            self._size = status.size
            identity = Identity(self.identity.device, status.ino, status.btime_ns)
            if status.size >= WORTH_BYTES:
                self._groups.take_over(identity, stamp_of(status))

    def _grow(self, start: int, end: int) -> None:
        """Note that the file reaches to `end` now, if it did not: up to `start` with zeros."""
        size = self._size
        if end <= size:
            return
        self._size = end
        if end > MAX_BYTES:
            self._groups.lose()
            return
        if size % CHUNK_BYTES:
            self._forget(size // CHUNK_BYTES)
        first = chunk_digests.count(size)
        stop = chunk_digests.count(end) if start == end else start // CHUNK_BYTES
        if first < stop and self._is_worth(end):
            self._know_zeros(first, stop)

    def _cut(self, size: int) -> None:
        self._size = size
        self._pieces.forget(size // CHUNK_BYTES, _NO_END)
        self._groups.cut(size // CHUNK_BYTES)

    # --- For `sealing`, without the lock of the open file.

    @property
    def is_to_be_kept(self) -> bool:
        """Whether there is a digest file, or one is worth it."""
        is_worth = self._size >= WORTH_BYTES and not self._groups.is_lost
        return is_worth or self._groups.has_file

    def unknown(self, epoch: int, first: int, stop: int) -> list[tuple[int, int]]:
        """The runs of chunks in `[first, stop)` of which nothing is known; none if it is not
        `epoch` any more.
        """
        with self._lock:
            stop = min(stop, chunk_digests.count(self._size))
            return list(self._groups.unsure(first, stop)) if epoch == self.epoch else []

    def learn(self, epoch: int, first: int, data: bytes) -> None:
        """Note the content of the chunks from `first` on, if it is still `epoch`."""
        with self._lock:
            if epoch == self.epoch and not self._groups.is_lost:
                self._know(first, data)

    def learn_zeros(self, epoch: int, first: int, stop: int) -> None:
        """Note that the chunks `[first, stop)` are zeros, if it is still `epoch`."""
        with self._lock:
            if epoch == self.epoch:
                self._know_zeros(first, stop)

    def _take_rest(self) -> None:
        """Take the last chunk, if it came in pieces up to the end of the file."""
        rest = self._pieces.rest(self._size)
        if rest is not None and not self._groups.are_sure(rest[0], rest[0] + 1):
            self._know(*rest)

    def close(self, epoch: int, stamp: Stamp | None) -> bool:
        """Close the digest file, with the stamp of the durable content, or take it away, for None;
        False if it is not `epoch` any more: nothing is done then.
        """
        with self._lock:
            if epoch != self.epoch:
                return False
            self.known_chunks = None
            try:
                if stamp is None or stamp.size != self._size or stamp.size < WORTH_BYTES:
                    self._groups.lose()
                elif not (self._groups.is_lost or self._groups.is_empty):
                    self._take_rest()
                    chunks = chunk_digests.count(self._size)
                    states = (Chunk.KNOWN, Chunk.ZEROS)
                    known = sum(self._groups.count(0, chunks, state) for state in states)
                    self._groups.store(stamp)
                    self.known_chunks = known
            except OSError:
                self._groups.lose()
            self._groups.close()
            # A client may be about to begin the next session with this very object.
            self._groups = DigestGroups(self._folder, self.identity)
            self._pieces = Piecewise()
            self._forgotten, self._is_taking = -1, False
            self._is_begun = self._is_new = False
            return True
