"""What a crash has left unfinished (`mirror.recovery`) is finalised beside the requests of clients:
each file before it is used for the first time.

Finalising moves to the main loop; the work is done by threads of the file's device.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from mirrorfs.mirror.recovery import Outcome, Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrorfs.backing.recovery_list import Entry, RecoveryList
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.kernel import Kernel


class LateRecovery:
    """`entries` are those on the recovery list that were not finalised before the mount."""

    def __init__(
        self,
        recovery: Recovery,
        recovery_list: RecoveryList | None,
        entries: Iterable[Entry],
        kernel: Kernel,
    ) -> None:
        self._recovery = recovery
        self._recovery_list = recovery_list
        self._kernel = kernel
        self._untried: dict[int, list[Entry]] = {}
        for entry in entries:
            self._untried.setdefault(entry.ino, []).append(entry)
        self._under_way: dict[int, trio.Event] = {}

    def has(self, ino: int) -> bool:
        """Whether a file with this inode number has yet to be looked at."""
        return ino in self._untried

    async def finish(self, ino: int, device: Device) -> None:
        """Finalise the files with this inode number, if they have yet to be looked at. One that
        cannot be finalised stays on the list; a client that opens it gets the error.
        """
        if not self.has(ino):
            return
        await device.threads.turn.to_main_loop()
        if ino in self._under_way:
            await self._under_way[ino].wait()
        if not self.has(ino):
            return
        done = self._under_way[ino] = trio.Event()
        try:
            for entry in self._untried[ino]:
                with contextlib.suppress(OSError):
                    await device.threads.run(self._finish, entry)
        finally:
            del self._untried[ino], self._under_way[ino]
            done.set()

    async def finish_listed(self, found: Iterable[Status | int], device: Device) -> bool:
        """Finalise those of the files of a listing (their status, or an errno); returns whether
        there was one, which has another size now.
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
        if self._recovery_list is not None:
            await device.threads.run(self._recovery_list.end_recovery)

    def _finish(self, entry: Entry) -> None:
        self._recovery.finish(entry)
        if self._recovery_list is not None:
            self._recovery_list.remove(entry.number)

    def check_of(self, inode: Inode) -> Callable[[int], None]:
        """What a thread that opens the file calls with the new descriptor. Raises EIO where reading
        the file may show old content.
        """

        def check(fd: int) -> None:
            if self._recovery.check(fd, inode.path) is not Outcome.NOTHING:
                self._kernel.drop_attributes(inode.node_id)  # the kernel may know its old size

        return check
