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

import os
import threading
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls
from mirrorfs.backing.digest_file import Chunk, Header, Mark, Stamp
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.chunk_digests import DIGEST_BYTES
from mirrorfs.mirror.digest_groups import DigestGroups
from mirrorfs.mirror.piecewise import Piecewise

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.digest_file import Folder, Identity
    from mirrorfs.backing.statx import Status
    from mirrorfs.mirror.plan import Data

# Digests of less are not worth a file.
WORTH_BYTES = 1 << 20
_NO_END = 1 << 63
_KNOWN, _ZEROS = bytes([Chunk.KNOWN]), bytes([Chunk.ZEROS])


def stamp_of(status: Status) -> Stamp:
    """The stamp of a file with this status."""
    return Stamp(status.size, status.mtime_ns, status.ctime_ns)


class KnownDigests:
    """Of one file. `folder` gives the folder of digest files, None where there is none;
    `restamped` what a stamp has become by what clients did to the file besides its content.
    `is_new` says that the file was just made.
    """

    def __init__(
        self,
        folder: Callable[[], Folder | None],
        identity: Identity,
        restamped: Callable[[Stamp], Stamp],
        is_new: bool,
    ) -> None:
        self.identity = identity
        self._folder = folder
        self._restamped = restamped
        self._is_new = is_new
        self._lock = threading.Lock()
        self._groups = DigestGroups(folder, identity)
        self._size = 0  # of the file below, in bytes
        self._is_begun = False
        self._pieces = Piecewise()
        # Grows whenever the content is about to change, so that `sealing` notices.
        self.epoch = 0
        # Size and mtime as the last client left them; None while one changes them.
        self.left: tuple[int, int] | None = None
        # Something else has changed the file since its digests were taken.
        self.is_changed_beside = False
        self.repaired_chunks = 0  # damaged ones that were given anew

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
            if self._is_begun and self.left is None:
                return
            try:
                if not self._is_begun:
                    self._is_begun = True
                    self._begin(fd)
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
            self._adopt(folder, status)
        except OSError:
            self._disown(folder, fd)

    def _adopt(self, folder: Folder, status: Status) -> None:
        """Mark the digest file as open, and go on with it if it is of this content; else there is
        none any more.
        """
        file = folder.open(self.identity)
        if file is None:
            return
        try:
            header = file.header(self.identity, folder.seed)
            if header is not None and header.mark is Mark.CLOSED:
                file.set_header(Header(Mark.OPEN, self.identity, folder.seed, header.stamp))
                file.sync()
                if self._restamped(header.stamp) == stamp_of(status):
                    self._groups.adopt(file)
                    return
                self.is_changed_beside = True
        except OSError:
            file.close()
            raise
        file.close()
        folder.remove(self.identity)

    def _disown(self, folder: Folder, fd: int) -> None:
        """Let no digest file be believed that cannot be marked, also after a power cut."""
        try:
            folder.remove(self.identity, is_durable=True)
        except OSError:
            # Its stamp is that of another content then.
            syscalls.touch(fd)
            os.fsync(fd)

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
            self._grow(offset, end)
            if self._groups.is_lost or not self._is_worth(end):
                return
            try:
                self._take(offset, data, is_changed, is_zero)
            except OSError:
                self._groups.lose()

    def _is_worth(self, end: int) -> bool:
        """Whether digests are taken: of what may become worth a file."""
        return max(end, self._size) >= CHUNK_BYTES or not self._groups.is_empty

    def _take(self, offset: int, data: Data, is_changed: bool, is_zero: bool) -> None:
        end = offset + len(data)
        first, stop = -(-offset // CHUNK_BYTES), end // CHUNK_BYTES
        if end == self._size and end % CHUNK_BYTES:
            stop += 1  # the last chunk ends there
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
        self.repaired_chunks += self._groups.count(first, stop, Chunk.DAMAGED)
        if is_zero:
            self._groups.set(first, _ZEROS * (stop - first))
            return
        whole = data[: (stop - first) * CHUNK_BYTES]
        self._groups.set(first, _KNOWN * (stop - first), self._digests(whole))

    def _take_piece(self, start: int, piece: Data, is_changed: bool) -> None:
        chunk = start // CHUNK_BYTES
        if is_changed:
            self._groups.set_all(chunk, chunk + 1, Chunk.UNKNOWN)
        whole = self._pieces.add(start, piece)
        if whole is not None and not self._groups.are_sure(chunk, chunk + 1):
            self._groups.set(chunk, _KNOWN, self._digests(whole))

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
            self._groups.set_all(first, stop, Chunk.UNKNOWN)

    def zeroed(self, start: int, end: int) -> None:
        """Note that `[start, end)` (bytes) is zeros now, as far as the file reaches."""
        with self._lock:
            end = min(end, self._size)
            if start >= end:
                return
            first, stop = start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
            self._pieces.forget(first, stop)
            self._groups.set_all(first, first + 1, Chunk.UNKNOWN)
            self._groups.set_all(stop - 1, stop, Chunk.UNKNOWN)
            first, stop = -(-start // CHUNK_BYTES), end // CHUNK_BYTES
            if end == self._size:
                stop = chunk_digests.count(end)
            if first < stop and self._is_worth(end):
                self._groups.set_all(first, stop, Chunk.ZEROS)

    def resized(self, size: int) -> None:
        """Note that the file ends at `size` (bytes), with zeros in what is new."""
        with self._lock:
            if size < self._size:
                self._cut(size)
            else:
                self._grow(size, size)

    def replaced(self, size: int) -> None:
        """Note that all of the content is another one now, of `size` bytes."""
        with self._lock:
            self._cut(0)
            self._size = size

    def _grow(self, start: int, end: int) -> None:
        """Note that the file reaches to `end` now, if it did not: up to `start` with zeros."""
        size = self._size
        if end <= size:
            return
        self._size = end
        if size % CHUNK_BYTES:
            self._groups.set_all(size // CHUNK_BYTES, size // CHUNK_BYTES + 1, Chunk.UNKNOWN)
        first = chunk_digests.count(size)
        stop = chunk_digests.count(end) if start == end else start // CHUNK_BYTES
        if first < stop and self._is_worth(end):
            self._groups.set_all(first, stop, Chunk.ZEROS)

    def _cut(self, size: int) -> None:
        self._size = size
        self._pieces.forget(size // CHUNK_BYTES, _NO_END)
        self._groups.cut(size // CHUNK_BYTES)

    # --- For `sealing`, without the lock of the open file.

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to be sealed: no digest file, and none is worth it."""
        is_worth = self._size >= WORTH_BYTES and not self._groups.is_lost
        return not (is_worth or self._groups.has_file)

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
                chunks = chunk_digests.count(len(data))
                self._groups.set(first, _KNOWN * chunks, self._digests(data))

    def learn_zeros(self, epoch: int, first: int, stop: int) -> None:
        """Note that the chunks `[first, stop)` are zeros, if it is still `epoch`."""
        with self._lock:
            if epoch == self.epoch:
                self._groups.set_all(first, stop, Chunk.ZEROS)

    def close(self, epoch: int, stamp: Stamp | None) -> bool:
        """Close the digest file, with the stamp of the durable content, or take it away, for None;
        False if it is not `epoch` any more: nothing is done then.
        """
        with self._lock:
            if epoch != self.epoch:
                return False
            try:
                if stamp is None or stamp.size != self._size or stamp.size < WORTH_BYTES:
                    self._groups.lose()
                elif not (self._groups.is_lost or self._groups.is_empty):
                    self._groups.store(stamp)
            except OSError:
                self._groups.lose()
            self._groups.close()
            # A client may be about to begin the next session with this very object.
            self._groups = DigestGroups(self._folder, self.identity)
            self._pieces = Piecewise()
            self._is_begun = self._is_new = False
            return True
