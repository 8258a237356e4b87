"""What clients see of an open file: holes are answered without reading below, everything else by
pread, and of a stale tail nothing.

Guarantees: what is read is what a plain file with the same content shows at some instant between
call and return; an old block is never shown as new. Called from any thread, without the lock of the
file. Nothing is changed, so a crash leaves nothing.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import holes

if TYPE_CHECKING:
    from mirrorfs.mirror.stale_tail import StaleTail

_ZEROS = bytes(1 << 20)


class View(NamedTuple):
    """A file as clients see it.

    A stale tail that begins after this was made is not known here: the caller looks afterwards
    whether one has begun, and if so reads again.
    """

    # Open for reading; for `seek`, in any way but O_PATH.
    fd: int
    # Whether a hole that SEEK_DATA reports may be taken for one (`backing.seek_answers`).
    is_seek_trusted: bool
    # The old blocks beyond what clients see, if there are any.
    stale_tail: StaleTail | None = None

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; fewer only at the end that clients see. Raises OSError
        (pread(2)).
        """
        tail = self.stale_tail
        if tail is None:
            return self._read_below(offset, size)
        # In this order: a gap begins before the valid length moves beyond it.
        valid, (gap, gap_end) = tail.valid_length, tail.gap or (0, 0)
        size = max(0, min(size, tail.logical_size - offset))
        live = max(0, min(size, valid - offset))
        data = self._read_below(offset, live) if live else b""
        first, last = max(gap, offset) - offset, min(gap_end, offset + len(data)) - offset
        if first < last:
            data = data[:first] + bytes(last - first) + data[last:]
        return data.ljust(size, b"\0")

    def _read_below(self, offset: int, size: int) -> bytes:
        """`read`, without a stale tail. Where SEEK_DATA is trusted, a hole is not read: a buffered
        read of a hole fills the page cache with zeros.
        """
        if self.is_seek_trusted and size <= len(_ZEROS):
            # The size is taken first, so that what is appended meanwhile is not answered as zeros.
            end = os.fstat(self.fd).st_size
            first = holes.next_data(self.fd, offset)
            # And again, since a hole may be all that a truncation has left of what was there.
            if (first is None or first >= offset + size) and os.fstat(self.fd).st_size >= end:
                return _ZEROS[: max(0, min(size, end - offset))]
        pieces = []
        while size:
            piece = os.pread(self.fd, size, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def seek(self, offset: int, whence: int) -> int:
        """The place, in bytes, that lseek(2) with SEEK_DATA or SEEK_HOLE (`whence`) finds from
        `offset` on. Raises OSError, ENXIO where there is nothing.
        """
        tail = self.stale_tail
        if tail is None:
            return self._seek_below(offset, whence)
        valid, (gap, gap_end) = tail.valid_length, tail.gap or (0, 0)
        if not 0 <= offset < tail.logical_size:
            raise _nothing_there()
        if whence == os.SEEK_HOLE:
            if offset >= valid or gap <= offset < gap_end:
                return offset
            found = self._seek_below(offset, whence)
            return min(found, valid if offset >= gap_end else gap)
        if gap <= offset < gap_end:
            offset = gap_end
        found = self._seek_below(offset, whence) if offset < valid else valid
        if gap <= found < gap_end:
            found = self._seek_below(gap_end, whence) if gap_end < valid else valid
        if found >= valid:
            raise _nothing_there()
        return found

    def _seek_below(self, offset: int, whence: int) -> int:
        return holes.seek(self.fd, offset, whence, self.is_seek_trusted)


def _nothing_there() -> OSError:
    return OSError(errno.ENXIO, os.strerror(errno.ENXIO))
