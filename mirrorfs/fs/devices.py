"""The file systems in the backing tree: what each can do, and the threads that wait for it.

Every device (st_dev) has threads of its own: one that stalls, a dead server or a frozen disk, can
use up those and no others. A device is met when a name leads to it, probed when it is first used,
and forgotten when no inode of it is known any more: it can then be unmounted, and another can come
in its place.

The mount itself may turn up below its own backing folder, by a bind mount. Any call on it there
would wait for the daemon itself, so it is known by its number and never touched.

Used by whoever has the turn (`turn`).
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from mirrorfs.backing import by_number
from mirrorfs.backing.identity import file_system_id
from mirrorfs.backing.mounts import mount_of, mount_table
from mirrorfs.backing.probe import LOCAL, probe_at
from mirrorfs.fs import inode_numbers
from mirrorfs.fs.entry import refuse
from mirrorfs.fs.threads import Threads

if TYPE_CHECKING:
    from mirrorfs.backing.mounts import Mount
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.turn import Turn

# More than a disk can use, and few enough to be cheap while idle. Further calls wait their turn.
_THREADS = 48
# Long calls (copy_file_range, fallocate) leave most of the threads to short ones.
_LONG_CALLS = 16
# Receivers that may be closing files of one device.
_CLOSES = 8
_CLOSE_SECONDS = 10.0


class Device:
    """One file system in the backing tree."""

    __slots__ = (
        "abilities",
        "closing",
        "dev",
        "identity",
        "inodes",
        "kind",
        "long_calls",
        "mounts",
        "reclaiming",
        "shift",
        "table_lines",
        "threads",
    )

    def __init__(self, dev: int, turn: Turn) -> None:
        self.dev = dev  # st_dev
        self.abilities: Abilities | None = None  # until it was probed
        self.kind = ""  # its type, until it was met by one of its mounts
        self.identity = b""  # by which it is known after it was mounted again
        self.shift = inode_numbers.shift_of(b"%d" % dev)  # of its inode numbers for clients
        self.inodes = 0  # how many of it are in the table, or held for later
        self.mounts: set[int] = set()  # ids of the mounts that lead to it
        self.table_lines: set[tuple[int, str]] = set()  # id and device in the mount table
        self.threads = Threads(_THREADS, turn)
        self.closing: set[int] = set()  # descriptors that receivers close
        self.long_calls = trio.CapacityLimiter(_LONG_CALLS)
        self.reclaiming = trio.Lock()  # space (`Space`)

    def meet(self, mount: Mount, mount_id: int, identity: bytes) -> None:
        """Note its type and identity, and one of the mounts that lead to it."""
        self.kind = mount.fs_type
        self.identity = identity
        self.mounts.add(mount_id)
        self.table_lines.add((mount.mount_id, mount.device))

    @property
    def is_local(self) -> bool:
        """Whether what the kernel knows of its inodes is the truth: there is no server."""
        return self.kind in LOCAL

    @property
    def remote_dev(self) -> int | None:
        """The device whose server its threads may wait for (`backing.lookup`)."""
        return None if self.kind in LOCAL else self.dev

    @property
    def name(self) -> str:
        """For the log."""
        return f"{self.kind or 'a file system'} ({os.major(self.dev)}:{os.minor(self.dev)})"

    def close_fd(self, fd: int) -> None:
        """Close a descriptor some time soon. It may be the last one of an unlinked file, whose
        blocks are then freed.
        """
        threads = self.threads
        if threads.is_cut_off:
            return  # a thread that was left behind may use it
        if threads.may_run_here and len(self.closing) < _CLOSES:
            self.closing.add(fd)
            threads.turn.then(partial(self._close, fd))
        else:
            threads.start(os.close, fd)

    def _close(self, fd: int) -> None:
        """By a receiver, without the turn."""
        try:
            os.close(fd)
        finally:
            self.closing.discard(fd)

    def long_call(self) -> LongCall:
        """For a request that may take long: most threads are left to others."""
        return LongCall(self)


class LongCall:
    """`async with LongCall(device)`: the block has one of the places of its long calls. A receiver
    that may make its calls itself needs none.
    """

    __slots__ = ("_device", "_has_place")

    def __init__(self, device: Device) -> None:
        self._device = device
        self._has_place = False

    async def __aenter__(self) -> None:
        threads = self._device.threads
        if not threads.may_run_here:
            await threads.turn.to_main_loop()
            await self._device.long_calls.acquire()
            self._has_place = True

    async def __aexit__(self, *_error: object) -> None:
        if self._has_place:
            self._device.long_calls.release()


class Devices:
    """The devices of one mount."""

    def __init__(
        self, root_fd: int, root: Status, abilities: Abilities, turn: Turn, writable: bool
    ) -> None:
        self._writable = writable
        self._turn = turn
        self.root = Device(root.dev, turn)
        self.root.abilities = abilities
        mount = mount_of(root_fd)
        identity = file_system_id(root_fd, mount, mount.fs_type in LOCAL)
        self.root.meet(mount, root.mount_id, identity)
        self.root.shift = inode_numbers.shift_of(identity)
        # Whether an inode on the root's device is found by nothing but its number.
        self.finds_by_number = os.geteuid() == 0 and self.root.kind in by_number.KINDS
        self._by_dev = {root.dev: self.root}
        self._all = [self.root]
        self.own_dev = -1  # the mount's own, as soon as there is one

    @property
    def busy(self) -> int:
        """Calls that are running or waiting for a thread."""
        return sum(device.threads.busy for device in self._all)

    def at(self, dev: int) -> Device:
        """The device with this number, which need not have been met."""
        return self._by_dev.get(dev) or self._begin(dev)

    def _begin(self, dev: int) -> Device:
        device = self._by_dev[dev] = Device(dev, self._turn)
        self._all.append(device)
        return device

    def check_foreign(self, dev: int) -> None:
        """Refuse the mount itself: ELOOP, as for a link that leads to itself."""
        if dev == self.own_dev:
            raise refuse(errno.ELOOP)

    def meet(self, status: Status, path_fd: int) -> Device:
        """The device of `status`; `path_fd` is O_PATH, and in it. Does not wait for it."""
        self.check_foreign(status.dev)
        device = self.at(status.dev)
        if status.mount_id not in device.mounts:
            mount = mount_of(path_fd)
            identity = file_system_id(path_fd, mount, mount.fs_type in LOCAL)
            if device.identity not in {b"", identity}:
                # The number of one that was unmounted was given to another.
                device = self._begin(status.dev)
            if device.identity != identity:
                device.shift = self._shift_of(identity)
            device.meet(mount, status.mount_id, identity)
        return device

    def _shift_of(self, identity: bytes) -> int:
        """The shift of a new device; another one where a copy with the same identity is there, too,
        so that no two inodes have one number.
        """
        shift = inode_numbers.shift_of(identity)
        taken = {device.shift for device in self._all[1:] if device.identity}
        if shift not in taken:
            return shift
        # Those that were unmounted are of no account: this one may be the same, mounted again.
        lines = {(mount.mount_id, mount.device) for mount in mount_table()}
        taken = {device.shift for device in self._all[1:] if device.table_lines & lines}
        attempts = (inode_numbers.shift_of(identity, attempt) for attempt in itertools.count())
        return next(shift for shift in attempts if shift not in taken)

    def number(self, dev: int, ino: int) -> int:
        """The number that clients see of an inode; 0 on a device of which nothing is known."""
        device = self._by_dev.get(dev)
        if device is None:
            return 0
        if device is self.root and inode_numbers.is_own(ino):
            return ino
        return inode_numbers.shifted(device.shift, ino)

    async def probe(self, device: Device, path_fd: int) -> None:
        """See what a device can do, before its first use; `path_fd` is O_PATH, and in it."""
        self.check_foreign(device.dev)
        abilities = await device.threads.run(probe_at, path_fd, self._writable)
        if device.abilities is None:
            device.abilities = abilities

    def sweep(self) -> None:
        """Forget the devices of which no inode is known any more."""
        for device in self._all[1:]:
            if not device.inodes and not device.threads.busy:
                self._all.remove(device)
                if self._by_dev.get(device.dev) is device:
                    del self._by_dev[device.dev]
                device.threads.close()

    def cut_off(self) -> list[str]:
        """End all waiting for devices that do not answer; returns a line for each."""
        lines = []
        for device in self._all:
            if device.threads.busy:
                left = device.threads.cut_off()
                what = ", ".join(f"{count} {name}" for name, count in left.most_common())
                lines.append(f"{device.name} does not answer; cut off, with unknown effect: {what}")
        return lines

    @property
    def is_cut_off(self) -> bool:
        """Whether threads were left behind, which may still use any descriptor."""
        return any(device.threads.is_cut_off for device in self._all)

    def close(self) -> None:
        """End the threads when what was submitted is done; stalled ones are left behind."""
        for device in self._all:
            device.threads.close()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for device in self._all:
            if not device.threads.is_cut_off:
                device.threads.join(deadline)
