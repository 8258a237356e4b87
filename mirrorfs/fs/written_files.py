"""What stays known of files that were written: where they lay, and how far their content may be
believed (`mirror.writeback`), also when no client has them open and the kernel has forgotten them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorfs.mirror.counters import MAX_FILES
from mirrorfs.mirror.writeback import Writeback

if TYPE_CHECKING:
    from mirrorfs.fs.inode import Inode
    from mirrorfs.mirror.counters import Account, FileKey


class WrittenFiles:
    """By identity. The account has their counters, and bounds how many; a failed writeback is kept
    until the inode is no more.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._paths: dict[FileKey, bytes] = {}
        # Of files that are not open for writing, and only what says something. One in which space
        # is reserved, and which is forgotten, is compared again, and keeps its space.
        self._failed: dict[FileKey, Writeback] = {}
        self._reserved: dict[FileKey, Writeback] = {}

    def note_opened(self, inode: Inode) -> Writeback:
        """Note where a file lies that is opened for writing now; returns what is known of it."""
        self._paths.pop(inode.key, None)
        self._paths[inode.key] = inode.path()
        if len(self._paths) > MAX_FILES:
            del self._paths[next(iter(self._paths))]
        known = self.writeback(inode.key) or Writeback()
        known.note_opened()
        return known

    def note_closed(self, key: FileKey, writeback: Writeback) -> None:
        """Keep what is known of a file whose last writer has closed it."""
        self._failed.pop(key, None)
        self._reserved.pop(key, None)
        if writeback.failed:
            self._failed[key] = writeback
        elif writeback.reserved:
            self._reserved[key] = writeback
            if len(self._reserved) > MAX_FILES:
                del self._reserved[next(iter(self._reserved))]

    def note_failure(self, key: FileKey) -> None:
        """Note that an fsync of a file failed that is not open for writing."""
        known = self.writeback(key) or Writeback()
        known.note_failure()
        self._failed[key] = known

    def writeback(self, key: FileKey) -> Writeback | None:
        """What is known of a file that is not open for writing; None for nothing."""
        return self._failed.get(key) or self._reserved.get(key)

    def path(self, key: FileKey) -> bytes | None:
        """Where a file lay; None if that is not known."""
        return self._paths.get(key)

    def note_forgotten(self, inode: Inode) -> None:
        """Note that the kernel has forgotten an inode: where it lay, or that it is no more."""
        if inode.nameless:
            self.drop(inode.key)
        elif inode.key in self._paths:
            self._paths[inode.key] = inode.path()

    def drop(self, key: FileKey) -> None:
        """Forget a file that is no more."""
        self._account.drop(key)
        self._paths.pop(key, None)
        self._failed.pop(key, None)
        self._reserved.pop(key, None)
