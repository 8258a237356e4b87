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


class Restamps:
    """By identity: a stamp, and what it has become."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moved: dict[FileKey, tuple[Stamp, Stamp]] = {}

    def note(self, key: FileKey, before: Stamp, after: Stamp) -> None:
        """Note that a client has moved a stamp."""
        if before == after or before.size != after.size:
            return
        with self._lock:
            known = self._moved.pop(key, None)
            if known is not None and known[1] == before:
                before = known[0]
            self._moved[key] = before, after
            if len(self._moved) > _MAX:
                del self._moved[next(iter(self._moved))]

    def resolve(self, key: FileKey, stamp: Stamp) -> Stamp:
        """What a stamp has become since."""
        with self._lock:
            before, after = self._moved.get(key, (stamp, stamp))
        return after if before == stamp else stamp

    def take(self) -> dict[FileKey, tuple[Stamp, Stamp]]:
        """All there are."""
        with self._lock:
            return dict(self._moved)

    def drop(self, key: FileKey, after: Stamp | None = None) -> None:
        """Forget that of a file, if it is still this one."""
        with self._lock:
            known = self._moved.get(key)
            if known is not None and after in {None, known[1]}:
                del self._moved[key]
