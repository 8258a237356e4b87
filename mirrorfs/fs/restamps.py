"""What clients do to a file besides its content (chmod, rename, a further name) moves its ctime:
the stamp of its digests is to follow, since nothing else has changed it.

Kept until the thread that seals has noted it in the digest file. May be called from any thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.digest_file import Stamp
    from mirrorfs.mirror.counters import FileKey

_MAX_FILES = 100_000
_MAX_STEPS = 16


class Restamps:
    """By identity: the stamps that a file had, one after the other, and the one that it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._had: dict[FileKey, tuple[Stamp, ...]] = {}

    def note(self, key: FileKey, before: Stamp, after: Stamp) -> None:
        """Note that a client has moved a stamp."""
        if before == after or before.size != after.size:
            return
        with self._lock:
            had = self._had.pop(key, ())
            if not had or had[-1] != before:
                had = (before,)
            self._had[key] = (*had[-_MAX_STEPS:], after)
            if len(self._had) > _MAX_FILES:
                del self._had[next(iter(self._had))]

    def resolve(self, key: FileKey, stamp: Stamp) -> Stamp:
        """What a stamp has become since."""
        with self._lock:
            had = self._had.get(key, ())
        return had[-1] if stamp in had else stamp

    def files(self) -> list[FileKey]:
        """Those of which something is noted."""
        with self._lock:
            return list(self._had)

    def drop(self, key: FileKey, stamp: Stamp | None = None) -> None:
        """Forget a file, if it still has this stamp; in any case for None."""
        with self._lock:
            had = self._had.get(key)
            if had is not None and stamp in {None, had[-1]}:
                del self._had[key]
