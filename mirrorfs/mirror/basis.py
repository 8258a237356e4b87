"""The older content that a write is compared with: what the file itself holds at that place, read,
or known by its digests.

Nothing is changed, so a crash leaves nothing. Raises OSError as pread(2) does, and may wait for the
disk.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.plan import Data


def read(fd: int, start: int, end: int) -> bytes:
    """The bytes of `[start, end)`, fewer at the end of the file. May be called without a lock."""
    found = os.pread(fd, end - start, start)
    while len(found) < end - start:
        more = os.pread(fd, end - start - len(found), start + len(found))
        if not more:
            break
        found += more
    return found


def content(file: OpenFile, offset: int, data: Data) -> tuple[bytes, int]:
    """What the file holds where `data` is to be written, at `offset` (bytes), fewer bytes at its
    end; and how many of them were not read, since their digests are known and those of `data`
    (`compare=digest`). The caller holds the lock.
    """
    end = offset + len(data)
    digests = file.digests if file.rules.trust else None
    equal = b"" if digests is None else digests.matching(offset, data)
    if not any(equal):
        return read(file.fd, offset, end), 0
    if all(equal):
        return bytes(data), len(data)
    parts: list[Data] = []
    trusted = start = 0
    for is_equal, run in itertools.groupby(equal):
        stop = min(start + len(list(run)) * CHUNK_BYTES, len(data))
        if is_equal:
            parts.append(data[start:stop])
            trusted += stop - start
        else:
            parts.append(read(file.fd, offset + start, offset + stop))
        start = stop
    return b"".join(parts), trusted
