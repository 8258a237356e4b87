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

_MAX = 100_000
_MAX_STAMPS = 16


class Restamps:
    """By identity: the stamps that a file has had one after the other. Its digests may have any of
    them: they are sealed while clients go on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moved: dict[FileKey, list[Stamp]] = {}

    def note(self, key: FileKey, before: Stamp, after: Stamp) -> None:
        """Note that a client has moved a stamp."""
        if before == after or before.size != after.size:
            return
        with self._lock:
            known = self._moved.pop(key, [])
            if not known or known[-1] != before:
                known = [before]
            self._moved[key] = [*known[1 - _MAX_STAMPS :], after]
            if len(self._moved) > _MAX:
                del self._moved[next(iter(self._moved))]

    def resolve(self, key: FileKey, stamp: Stamp) -> Stamp:
        """What a stamp has become since."""
        with self._lock:
            known = self._moved.get(key, [])
            return known[-1] if stamp in known else stamp

    def keys(self) -> list[FileKey]:
        """Of all files whose stamps were moved."""
        with self._lock:
            return list(self._moved)

    def drop(self, key: FileKey, after: Stamp | None = None) -> None:
        """Forget the stamps of a file, if the last one is still this one."""
        with self._lock:
            known = self._moved.get(key)
            if known is not None and after in {None, known[-1]}:
                del self._moved[key]
