"""The older content that a write is compared with: what the file itself holds at that place.

Read into buffers that each thread keeps for its next request: fresh memory for each would cost as
much as the comparison.
"""

from __future__ import annotations

import os
import threading

_MAX_KEPT_BUFFERS = 4
_kept = threading.local()


def read(fd: int, start: int, end: int) -> memoryview:
    """The bytes of `[start, end)`, fewer at the end of the file; valid until this thread reads
    again.
    """
    view = _buffer(end - start)
    filled = 0
    while filled < len(view):
        got = os.preadv(fd, [view[filled:]], start + filled)
        if not got:
            break
        filled += got
    return view[:filled]


def read_cached(fd: int, start: int, end: int, no_wait_flags: int) -> memoryview | None:
    """The same, all of it, if the page cache holds it, so that nobody has to wait; else None.

    A file system that does not know `no_wait_flags` answers EOPNOTSUPP, which means None, too.
    """
    view = _buffer(end - start)
    try:
        got = os.preadv(fd, [view], start, no_wait_flags)
    except OSError:
        return None
    return view if got == len(view) else None


def _buffer(size: int) -> memoryview:
    buffers: dict[int, bytearray] = _kept.__dict__.setdefault("buffers", {})
    buffer = buffers.get(size)
    if buffer is None:
        if len(buffers) >= _MAX_KEPT_BUFFERS:
            buffers.clear()
        buffer = buffers[size] = bytearray(size)
    return memoryview(buffer)
