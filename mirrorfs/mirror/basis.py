"""The older content that a write is compared with: what the file itself holds at that place.

Memory for it must not be cleared first, which would cost as much as the comparison. Python does not
clear what it reads into with `pread`; where that cannot be used, a buffer is kept.

Nothing is changed, so a crash leaves nothing. May be called from any thread, without a lock.
"""

from __future__ import annotations

import os
import threading

_kept = threading.local()


def read(fd: int, start: int, end: int) -> bytes:
    """The bytes of `[start, end)`, fewer at the end of the file. May wait for the disk; raises
    OSError (pread(2)).

    Into memory of its own: many threads come here, and a buffer kept by each would stay for good.
    """
    found = os.pread(fd, end - start, start)
    while len(found) < end - start:
        more = os.pread(fd, end - start - len(found), start + len(found))
        if not more:
            break
        found += more
    return found


def read_cached(fd: int, start: int, end: int, no_wait_flags: int) -> bytearray | None:
    """The bytes of `[start, end)`, if the page cache holds all of them, so that nothing has to be
    waited for; else None.

    Into a buffer that is kept by the thread, as a rule the one of the main loop: valid until it
    comes here again. `no_wait_flags` are for preadv(2), `Abilities.no_wait_flags`; a file system
    that does not know them answers EOPNOTSUPP, which means None, too.
    """
    buffer: bytearray = _kept.__dict__.get("buffer", b"")
    if len(buffer) != end - start:
        buffer = _kept.buffer = bytearray(end - start)
    try:
        got = os.preadv(fd, [buffer], start, no_wait_flags)
    except OSError:
        return None
    return buffer if got == len(buffer) else None
