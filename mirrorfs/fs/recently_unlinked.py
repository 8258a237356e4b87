"""Recently unlinked files, held for a moment as seeds: tar, install and borg unlink a file and make
it anew.

A few, not for long, and given up at once when space is short or a client wants to know what is
free: their blocks are not free before. Runs in the thread that has the turn (`turn`).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.inode import Inode
    from mirrorfs.mirror.seed_search import OldFile

_HELD_SECONDS = 3.0
_MAX_HELD = 8


@dataclass(frozen=True, slots=True)
class _Held:
    parent: Inode
    old: OldFile
    until: float  # on the monotonic clock


class RecentlyUnlinked:
    """By folder and name."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, bytes], _Held] = OrderedDict()

    def hold(self, parent: Inode, name: bytes, old: OldFile) -> None:
        """Keep a file that was unlinked from `parent`, and its descriptor."""
        self._give_up(self._held.pop((parent.node_id, name), None))
        until = time.monotonic() + _HELD_SECONDS
        self._held[parent.node_id, name] = _Held(parent, old, until)
        parent.device.inodes += 1  # its threads have to close the file
        if len(self._held) > _MAX_HELD:
            self._give_up(self._held.popitem(last=False)[1])

    def take(self, parent: Inode, name: bytes) -> OldFile | None:
        """The file that had this name a moment ago; its descriptor becomes the caller's."""
        held = self._held.get((parent.node_id, name))
        if held is None or held.parent is not parent:
            return None
        del self._held[parent.node_id, name]
        parent.device.inodes -= 1
        return held.old

    def sweep(self) -> None:
        """Give up those whose time is over."""
        now = time.monotonic()
        while self._held and next(iter(self._held.values())).until <= now:
            self._give_up(self._held.popitem(last=False)[1])

    async def give_up_all(self, device: Device) -> bool:
        """Give up those on a device; returns, when their blocks are free, whether there was one."""
        found = [key for key, held in self._held.items() if held.parent.device is device]
        for held in [self._held.pop(key) for key in found]:
            try:
                await device.threads.run(os.close, held.old.fd)
            finally:
                device.inodes -= 1
        return bool(found)

    def close(self) -> None:
        """Give up all, at the end of the mount."""
        while self._held:
            self._give_up(self._held.popitem()[1])

    def _give_up(self, held: _Held | None) -> None:
        if held is not None:
            held.parent.device.close_fd(held.old.fd)
            held.parent.device.inodes -= 1
