"""Files that had a stale tail not long ago, and that no client has open for writing any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.fs.inode import Inode
    from mirrorfs.mirror.counters import FileKey

# Longer than a status can be under way from a thread to its answer.
_RECENT_SECONDS = 5.0
# Longer than a file system keeps a change of an attribute to itself (ext4(5), commit).
_UNSYNCED_SECONDS = 600.0


class RecentlySeeded:
    """Since when, on the monotonic clock. Used by whoever has the turn."""

    def __init__(self) -> None:
        self._by_id: dict[int, float] = {}
        self._by_key: dict[FileKey, float] = {}

    def note(self, inode: Inode) -> None:
        """Note a file whose last writer has closed it now."""
        self._by_id[inode.node_id] = now = time.monotonic()
        self._by_key.pop(inode.key, None)  # to the end
        self._by_key[inode.key] = now

    def has(self, inode: Inode) -> bool:
        """Whether a status of the file may be under way that was taken before its tail ended."""
        return inode.node_id in self._by_id

    def may_be_marked(self, inode: Inode) -> bool:
        """Whether its recovery attribute may still be on the disk."""
        return inode.key in self._by_key

    def sweep(self) -> None:
        """Forget those whose time is over."""
        now = time.monotonic()
        for node_id, moment in list(self._by_id.items()):
            if now >= moment + _RECENT_SECONDS:
                del self._by_id[node_id]
        for key, moment in list(self._by_key.items()):
            if now < moment + _UNSYNCED_SECONDS:
                break
            del self._by_key[key]
