"""What a crash has left unfinished (`mirror.recovery`), finalised beside the mount, and each file
before it is used for the first time.

Runs in the main loop's thread; the work is done by threads of the file's device.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pyfuse3
import trio

from mirrorfs.mirror.recovery import Outcome, Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrorfs.backing.recovery_list import Entry, RecoveryList
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.inodes import Inode


class LateRecovery:
    """`entries` are those on the list `unsettled` that were not finalised before the mount."""

    def __init__(
        self, recovery: Recovery, unsettled: RecoveryList | None, entries: Iterable[Entry]
    ) -> None:
        self._recovery = recovery
        self._unsettled = unsettled
        self._untried: dict[int, list[Entry]] = {}
        for entry in entries:
            self._untried.setdefault(entry.ino, []).append(entry)
        self._under_way: dict[int, trio.Event] = {}

    def has(self, ino: int) -> bool:
        """Whether a file with this inode number has yet to be looked at."""
        return ino in self._untried

    async def finish(self, ino: int, device: Device) -> None:
        """Finalise the files with this inode number, if they have yet to be looked at. One that
        cannot be finalised stays on the list; who opens it meets the error.
        """
        if ino in self._under_way:
            await self._under_way[ino].wait()
        if not self.has(ino):
            return
        done = self._under_way[ino] = trio.Event()
        try:
            for entry in self._untried[ino]:
                with contextlib.suppress(OSError):
                    await device.workers.run(self._finish, entry)
        finally:
            del self._untried[ino], self._under_way[ino]
            done.set()

    async def finish_these(self, found: Iterable[Status | int], device: Device) -> bool:
        """Finalise those of the files that were looked at (their status, or an errno); returns
        whether there was one, which has another size now.
        """
        if not self._untried:
            return False
        left = [one.ino for one in found if not isinstance(one, int) and self.has(one.ino)]
        for ino in left:
            await self.finish(ino, device)
        return bool(left)

    async def finish_all(self, device: Device) -> None:
        """Finalise all that are left, one after the other."""
        if not self._untried:
            return
        while self._untried:
            await self.finish(next(iter(self._untried)), device)
        if self._unsettled is not None:
            await device.workers.run(self._unsettled.end_recovery)

    def _finish(self, entry: Entry) -> None:
        self._recovery.finish(entry)
        if self._unsettled is not None:
            self._unsettled.remove(entry.number)

    def checked(self, inode: Inode) -> Callable[[int], None]:
        """For a thread that opens the file: what it is to call with the new descriptor. Raises EIO
        where reading the file may show old content.
        """

        def check(fd: int) -> None:
            if self._recovery.check(fd, inode.path) is not Outcome.NOTHING:
                # The kernel may know its old size.
                with contextlib.suppress(OSError):
                    pyfuse3.invalidate_inode(pyfuse3.InodeT(inode.node_id), attr_only=True)

        return check
