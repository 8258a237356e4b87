"""Read for a client: holes are answered without reading below, everything else by pread."""

from __future__ import annotations

import os

from mirrorfs.backing import holes

_ZEROS = bytes(1 << 20)


def read(fd: int, offset: int, size: int, trusted_seek: bool) -> bytes:
    """Up to `size` bytes at `offset`; fewer only at the end of the file.

    Where SEEK_DATA is trusted, a hole is not read: a buffered read of a hole fills the page cache
    with zeros.
    """
    if trusted_seek and size <= len(_ZEROS):
        # Asked first, so that what is appended meanwhile is not answered as zeros.
        end = os.fstat(fd).st_size
        first = holes.next_data(fd, offset)
        # And again, since a hole may be all that a truncation has left of what was there.
        if (first is None or first >= offset + size) and os.fstat(fd).st_size >= end:
            return _ZEROS[: max(0, min(size, end - offset))]
    pieces = []
    while size:
        piece = os.pread(fd, size, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
