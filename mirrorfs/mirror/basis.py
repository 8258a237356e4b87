"""The older content that a write is compared with: what the file itself holds at that place.

Nothing is changed, so a crash leaves nothing. May be called from any thread, without a lock.
"""

from __future__ import annotations

import os


def read(fd: int, start: int, end: int) -> bytes:
    """The bytes of `[start, end)`, fewer at the end of the file. May wait for the disk; raises
    OSError (pread(2)).
    """
    found = os.pread(fd, end - start, start)
    while len(found) < end - start:
        more = os.pread(fd, end - start - len(found), start + len(found))
        if not more:
            break
        found += more
    return found
