"""Reading ahead of a client that writes through an old file in order, so that the disk reads what
comes next while this is being received.

It only fills the page cache below: nothing is kept here but where the client is, and what was
requested of the kernel. Holes are passed over, however large. A client that jumps about is left
alone. Nothing is changed, so a crash leaves nothing.
"""

from __future__ import annotations

import os
from collections import deque

from mirrorfs.backing import holes, tree

# What is requested ahead of the client, and requested anew when half of it is left. A disk of
# 150 MB/s reads that in a tenth of a second, for which others have to wait.
WINDOW_BYTES = 16 << 20
# The kernel cuts a longer request short (mm/readahead.c, force_page_cache_ra): to the readahead of
# the device, 128 KiB as a rule, which POSIX_FADV_SEQUENTIAL doubles.
_PIECE_BYTES = 256 << 10
_MAX_RANGES = 256
_STREAK = 3


class ReadAhead:
    """One for each open file. `note` and `not_now` are called by one thread at a time, `read` by
    another, once for each `note` that says so.
    """

    __slots__ = ("_at_end", "_busy", "_next", "_reach", "_requested", "_streak")

    def __init__(self) -> None:
        self._requested: deque[tuple[int, int]] = deque()
        self._at_end = False  # nothing more is to be read
        self._busy = False
        self._next = 0  # where the last write ended
        self._reach = 0  # up to there all was requested
        self._streak = 0

    def note(self, start: int, end: int) -> bool:
        """Note a write to `[start, end)`, in bytes; returns whether `read` is to be called."""
        in_order = self._next <= start <= max(self._next, self._reach)
        self._next = end
        if self._busy:
            return False
        if not in_order:
            self._streak = self._reach = 0
            self._at_end = False
            self._requested.clear()
            return False
        self._streak += 1
        if self._at_end or self._streak < _STREAK or self._left() > WINDOW_BYTES // 2:
            return False
        self._busy = True
        return True

    def not_now(self) -> None:
        """Note that `read` was not called after all."""
        self._busy = False

    def _left(self) -> int:
        """How many of the bytes that were requested the client has yet to come to."""
        while self._requested and self._requested[0][1] <= self._next:
            self._requested.popleft()
        return sum(end - max(start, self._next) for start, end in self._requested)

    def read(self, fd: int, is_seek_trusted: bool) -> None:
        """Have the kernel read what comes next, and close `fd`; may wait for the disk. Raises
        nothing: what cannot be read is met by the write that needs it. `is_seek_trusted` as in
        `View`.

        Seeking locks what was opened, with all its duplicates (lseek in the kernel), and here it
        may wait for the disk; so the file is opened anew, lest a writer wait for it, too.
        """
        own_fd = -1
        try:
            if not self._reach:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            own_fd = os.open(tree.fd_path(fd), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            os.posix_fadvise(own_fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._read(own_fd, is_seek_trusted)
        except OSError:
            self._at_end = True
        finally:
            os.close(fd)
            if own_fd >= 0:
                os.close(own_fd)
            self._busy = False

    def _read(self, fd: int, is_seek_trusted: bool) -> None:
        self._reach = max(self._reach, self._next)
        room, end = WINDOW_BYTES - self._left(), os.fstat(fd).st_size
        while room > 0 and len(self._requested) < _MAX_RANGES:
            start = holes.next_data(fd, self._reach) if is_seek_trusted else self._reach
            if start is None or start >= end:
                self._at_end = True
                return
            stop = min(holes.seek(fd, start, os.SEEK_HOLE, is_seek_trusted), start + room)
            for piece in range(start, stop, _PIECE_BYTES):
                length = min(_PIECE_BYTES, stop - piece)
                os.posix_fadvise(fd, piece, length, os.POSIX_FADV_WILLNEED)
            self._requested.append((start, stop))
            self._reach = stop
            room -= stop - start
