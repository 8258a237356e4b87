"""Space below: what is only kept as a seed is given up before a request fails for want of space.

Used by whoever has the turn; reclaiming is a matter of the main loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from mirrorfs.backing import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.open_files import OpenFiles
    from mirrorfs.fs.recently_unlinked import RecentlyUnlinked

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
_FORGET_SECONDS = 0.05


class Space:
    """`reclaimed` counts how often seeds were given up for want of space."""

    def __init__(self, unlinked: RecentlyUnlinked, open_files: OpenFiles) -> None:
        self.reclaimed = 0
        self._unlinked = unlinked
        self._open_files = open_files

    async def reclaim(self, device: Device, code: int | None, since: int) -> bool:
        """Free what is only kept as a seed on a device, if the errno `code` says that space is
        short.

        Returns whether there was something, or another request has done so since `reclaimed` was
        `since`.
        """
        if code not in syscalls.NO_SPACE:
            return False
        await device.threads.turn.to_main_loop()
        # What one request reclaims is there for all that wait meanwhile.
        async with device.reclaiming:
            if self.reclaimed != since:
                return True
            found = await self._unlinked.give_up_all(device)
            found |= await self._open_files.give_up_seeds(device)
            if await self._open_files.finalise_all(device) or found:
                # The blocks of an unlinked file are free when the kernel has let go of it, too.
                await trio.sleep(_FORGET_SECONDS)
                self.reclaimed += 1
            return self.reclaimed != since

    async def retry_after_reclaim(
        self,
        device: Device,
        function: Callable[[*_Args], _T],
        *args: *_Args,
    ) -> _T:
        """Call `function(*args)` for a device (`Threads.run`), and once more if it failed for want
        of space and some was reclaimed. It has done nothing if it raises.
        """
        since, run = self.reclaimed, device.threads.run
        try:
            return await run(function, *args)
        except OSError as exc:
            if not await self.reclaim(device, exc.errno, since):
                raise
        return await run(function, *args)
