"""The file systems in the backing tree: what each can do, and the threads that wait for it.

Every device (st_dev) has threads of its own: one that stalls, a dead server or a frozen disk, can
use up those and no others. A device is met when a name leads to it, probed when it is first used,
and forgotten when no inode of it is known any more: it can then be unmounted, and another can come
in its place.

The mount itself may turn up below its own backing folder, by a bind mount. Whatever is asked of it
there would wait for us, so it is known by its number and never touched.

Everything here runs in the main loop's thread.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import trio

from mirrorfs.backing.mounts import mount_of
from mirrorfs.backing.probe import IN_MEMORY, LOCAL, probe_at
from mirrorfs.mount.workers import Workers

if TYPE_CHECKING:
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.statx import Status

# More than a disk can use, and few enough to be cheap while idle. Further calls wait their turn.
_THREADS = 48
# Long calls (copy_file_range, fallocate) leave most of the threads to short ones.
_LONG_CALLS = 16
_CLOSE_SECONDS = 10.0


class Device:
    """One file system in the backing tree. `known` counts its inodes in the table.

    `abilities` is None until it was probed, `kind` is its type, empty until it was met by one of
    its `mounts`. `asks` is the device that a step may ask to its face: its own number, or nothing
    (-1) where what the kernel knows is the truth (`is_local`).
    """

    __slots__ = (
        "abilities",
        "asks",
        "dev",
        "is_local",
        "kind",
        "known",
        "long_calls",
        "mounts",
        "workers",
    )

    def __init__(self, dev: int) -> None:
        self.dev = dev
        self.abilities: Abilities | None = None
        self.kind = ""
        self.asks = dev
        self.is_local = False
        self.known = 0
        self.mounts: set[int] = set()
        self.workers = Workers(_THREADS)
        self.long_calls = trio.CapacityLimiter(_LONG_CALLS)

    def met(self, kind: str, mount_id: int) -> None:
        """Note its type, and one of the mounts that lead to it."""
        self.kind = kind
        self.is_local = kind in LOCAL
        self.workers.in_memory = kind in IN_MEMORY
        self.asks = -1 if self.is_local else self.dev
        self.mounts.add(mount_id)

    @property
    def is_prompt(self) -> bool:
        """Whether a call that is done from memory as a rule may be made without a thread: never
        elsewhere than on a disk, and not while somebody is waiting for it.
        """
        return self.is_local and not self.workers.busy

    @property
    def name(self) -> str:
        """For the log."""
        return f"{self.kind or 'a file system'} ({os.major(self.dev)}:{os.minor(self.dev)})"


class Devices:
    """The devices of one mount. `own_dev` is the mount's own, as soon as there is one."""

    def __init__(self, root: Status, abilities: Abilities, writable: bool) -> None:
        self._writable = writable
        self.root = Device(root.dev)
        self.root.abilities = abilities
        self.root.met(abilities.file_system, root.mount_id)
        self._by_dev = {root.dev: self.root}
        self._all = [self.root]
        self.own_dev = -1

    @property
    def busy(self) -> int:
        """Calls that are running or waiting for a thread."""
        return sum(device.workers.busy for device in self._all)

    @property
    def is_slow(self) -> bool:
        """Whether somebody waits for an answer of one of them that should come soon."""
        return any(device.workers.is_slow for device in self._all)

    def at(self, dev: int) -> Device:
        """The device with this number, which need not have been met."""
        return self._by_dev.get(dev) or self._begin(dev)

    def _begin(self, dev: int) -> Device:
        device = self._by_dev[dev] = Device(dev)
        self._all.append(device)
        return device

    def check_foreign(self, dev: int) -> None:
        """Refuse the mount itself: ELOOP, as for a link that leads to itself."""
        if dev == self.own_dev:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def meet(self, status: Status, path_fd: int) -> Device:
        """The device of `status`; `path_fd` is O_PATH, and in it. Does not wait for it."""
        self.check_foreign(status.dev)
        device = self.at(status.dev)
        if status.mount_id not in device.mounts:
            kind = mount_of(path_fd).fs_type
            if device.kind not in {"", kind}:
                # The number of one that was unmounted was given to another.
                device = self._begin(status.dev)
            device.met(kind, status.mount_id)
        return device

    async def probe(self, device: Device, path_fd: int) -> None:
        """See what a device can do, before its first use; `path_fd` is O_PATH, and in it."""
        self.check_foreign(device.dev)
        abilities = await device.workers.run(probe_at, path_fd, self._writable)
        if device.abilities is None:
            device.abilities = abilities

    def sweep(self) -> None:
        """Forget the devices that nobody knows any more."""
        for device in self._all[1:]:
            if not device.known and not device.workers.busy:
                self._all.remove(device)
                if self._by_dev.get(device.dev) is device:
                    del self._by_dev[device.dev]
                device.workers.close()

    def cut_off(self) -> list[str]:
        """Let nobody wait any longer for devices that do not answer; one line for each."""
        lines = []
        for device in self._all:
            if device.workers.busy:
                left = device.workers.cut_off()
                what = ", ".join(f"{count} {name}" for name, count in left.most_common())
                lines.append(f"{device.name} does not answer; cut off, with unknown effect: {what}")
        return lines

    @property
    def is_cut_off(self) -> bool:
        """Whether threads were left behind, which may still use any descriptor."""
        return any(device.workers.is_cut_off for device in self._all)

    def close(self) -> None:
        """End the threads when what was submitted is done; stalled ones are left behind."""
        for device in self._all:
            device.workers.close()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for device in self._all:
            if not device.workers.is_cut_off:
                device.workers.join(deadline)
