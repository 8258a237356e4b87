"""The table of inodes that the kernel knows, and the descriptors that stand for them.

An inode is (device, inode number, birth time), never a path. Its O_PATH descriptor is kept in an
LRU of bounded size; one that was given up is opened again by file handle (root) or by parent and
name, and must then be the same inode, else ESTALE. An inode that is in use by a request (`hold`),
open, or nameless keeps its descriptor.

Everything here runs in the main loop's thread, so no lock is needed; what may block is done by the
callers' workers. Lookup counts follow FUSE: each entry handed to the kernel adds one, `forget`
takes them away.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls, tree
from mirrorfs.backing.probe import Abilities, probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.syscalls import Status

ROOT_ID = 1
FIRST_OTHER_ID = 1 << 62
FIRST_CONTROL_ID = 1 << 63


class Inode:
    """One inode known to the kernel. `fd` is -1 while its descriptor is given up."""

    __slots__ = (
        "birth_ns",
        "dev",
        "fd",
        "handle",
        "ino",
        "kind",
        "lookups",
        "name",
        "nameless",
        "node_id",
        "parent",
        "pins",
        "plain_until",
    )

    def __init__(self, node_id: int, status: Status, parent: Inode | None, name: bytes) -> None:
        self.node_id = node_id
        self.dev = status.dev
        self.ino = status.ino
        self.birth_ns = status.btime_ns
        self.kind = stat.S_IFMT(status.mode)
        self.parent = parent
        self.name = name
        self.fd = -1
        self.handle: bytes | None = None
        self.lookups = 0
        self.pins = 0
        self.nameless = False
        # Until then, on the monotonic clock, it is known to have no security.capability.
        self.plain_until = 0.0

    @property
    def key(self) -> tuple[int, int, int]:
        """Identity: device, inode number, birth time in ns."""
        return (self.dev, self.ino, self.birth_ns)

    def path(self) -> bytes:
        """The path below the root by which it was last seen; for people and reports only."""
        parts: list[bytes] = []
        inode: Inode | None = self
        while inode is not None and inode.parent is not None:
            parts.append(inode.name)
            inode = inode.parent
        return b"/".join(reversed(parts))


class Device:
    """One file system in the backing tree: what it can do, and a descriptor by which handles are
    opened.
    """

    __slots__ = ("abilities", "anchor_fd")

    def __init__(self, abilities: Abilities, anchor_fd: int) -> None:
        self.abilities = abilities
        self.anchor_fd = anchor_fd


def stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class InodeTable:
    """All inodes of one mount.

    `root_fd` is a real (not O_PATH) descriptor of the backing folder; `limit` bounds the
    descriptors of inodes that are merely known; `dispose` closes a descriptor where that may block
    (the last one of an unlinked file).
    """

    def __init__(
        self,
        root_fd: int,
        abilities: Abilities,
        limit: int,
        writable: bool,
        dispose: Callable[[int], None],
    ) -> None:
        status = syscalls.statx(root_fd)
        self._by_id: dict[int, Inode] = {}
        self._other: dict[
            tuple[int, int], int
        ] = {}  # (device, number) -> node id, where the two differ
        self._lru: OrderedDict[int, Inode] = OrderedDict()
        self._limit = limit
        self._writable = writable
        self._dispose = dispose
        self._next_other = FIRST_OTHER_ID
        self._by_handle = os.geteuid() == 0
        self.root_dev = status.dev
        self.devices = {status.dev: Device(abilities, root_fd)}
        self.root = Inode(ROOT_ID, status, None, b"")
        self.root.fd = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=root_fd)
        self.root.pins = 1
        self.root.lookups = 1
        self._by_id[ROOT_ID] = self.root
        self._other[status.dev, status.ino] = ROOT_ID

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def descriptors(self) -> int:
        """How many descriptors of merely known inodes are kept now."""
        return len(self._lru)

    def get(self, node_id: int) -> Inode:
        """The inode of a node id; ESTALE if the kernel names one that it was not told of."""
        inode = self._by_id.get(node_id)
        if inode is None:
            raise stale()
        return inode

    def find(self, status: Status) -> Inode | None:
        """The known inode with this identity."""
        node_id = self._other.get((status.dev, status.ino))
        if node_id is None and status.dev == self.root_dev:
            node_id = status.ino
        inode = self._by_id.get(node_id) if node_id is not None else None
        return inode if inode is not None and inode.key == status.key else None

    def adopt(self, status: Status, parent: Inode, name: bytes, fd: int = -1) -> Inode:
        """Count one lookup of the inode with `status`, making it known if it is new.

        `fd`, if given, is its O_PATH descriptor and becomes the table's.
        """
        inode = self.find(status)
        if inode is None:
            inode = Inode(self._new_id(status), status, parent, name)
            self._by_id[inode.node_id] = inode
        elif inode is not self.root:
            inode.parent, inode.name = parent, name
        inode.lookups += 1
        if fd >= 0:
            self.give(inode, fd)
        return inode

    def give(self, inode: Inode, fd: int) -> None:
        """Hand the table an O_PATH descriptor of `inode`; a second one is closed."""
        if inode.fd >= 0:
            os.close(fd)
            return
        inode.fd = fd
        self._keep(inode)

    def forget(self, node_id: int, lookups: int) -> Inode | None:
        """Take lookups away; returns the inode if it is no longer known."""
        inode = self._by_id.get(node_id)
        if inode is None or inode is self.root:
            return None
        inode.lookups -= lookups
        if inode.lookups > 0 or inode.pins:
            return None
        self._drop(inode)
        return inode

    def hold(self, inode: Inode) -> int:
        """The descriptor of `inode`, kept until `release`; opened again if it was given up. Raises
        ESTALE.
        """
        if inode.fd < 0:
            inode.fd = self._reopen(inode)
        inode.pins += 1
        self._lru.pop(inode.node_id, None)
        return inode.fd

    def release(self, inode: Inode) -> None:
        """The end of a `hold`."""
        inode.pins -= 1
        if inode.pins:
            return
        if inode.lookups <= 0 and inode is not self.root:
            self._drop(inode)
        else:
            self._keep(inode)

    def renamed(self, inode: Inode, parent: Inode, name: bytes) -> None:
        """Note the new name of an inode; counters and descriptor stay with it."""
        inode.parent, inode.name = parent, name

    def known_files(self, keys: set[tuple[int, int, int]]) -> list[Inode]:
        """The known inodes among `keys`."""
        return [inode for inode in self._by_id.values() if inode.key in keys]

    def lose_name(self, inode: Inode) -> None:
        """Note that the last name of an inode is gone: only its descriptor leads to it from
        now on.
        """
        inode.nameless = True
        self._lru.pop(inode.node_id, None)

    def close(self) -> None:
        """Close every descriptor."""
        for inode in self._by_id.values():
            if inode.fd >= 0:
                os.close(inode.fd)
        self._by_id.clear()
        self._lru.clear()

    def abilities(self, inode: Inode) -> Abilities:
        """What the file system of `inode` can do."""
        return self.devices[inode.dev].abilities

    def _keep(self, inode: Inode) -> None:
        if inode.pins or inode.nameless:
            return
        self._lru[inode.node_id] = inode
        self._lru.move_to_end(inode.node_id)
        while len(self._lru) > self._limit:
            _, oldest = self._lru.popitem(last=False)
            self._give_up(oldest)

    def _give_up(self, inode: Inode) -> None:
        if self._by_handle:
            inode.handle = syscalls.file_handle(inode.fd)
        self._dispose(inode.fd)
        inode.fd = -1

    def _drop(self, inode: Inode) -> None:
        self._by_id.pop(inode.node_id, None)
        self._lru.pop(inode.node_id, None)
        if self._other.get((inode.dev, inode.ino)) == inode.node_id:
            del self._other[inode.dev, inode.ino]
        if inode.fd >= 0:
            self._dispose(inode.fd)
            inode.fd = -1

    def _new_id(self, status: Status) -> int:
        """The backing inode number where it is free on the root's device; else the next number from
        2^62 up.
        """
        number = status.ino
        if (
            status.dev == self.root_dev
            and ROOT_ID < number < FIRST_OTHER_ID
            and number not in self._by_id
        ):
            self._other.pop((status.dev, number), None)
            return number
        node_id = self._next_other
        self._next_other += 1
        self._other[status.dev, number] = node_id
        return node_id

    def _reopen(self, inode: Inode) -> int:
        """By handle where there is one, else by parent and name. The result must be the
        same inode.
        """
        fd = -1
        if inode.handle is not None:
            device = self.devices.get(inode.dev)
            if device is not None and device.anchor_fd >= 0:
                try:
                    fd = syscalls.open_by_handle(device.anchor_fd, inode.handle)
                except PermissionError:
                    fd = -1
        if fd < 0:
            fd = self._open_by_name(inode)
        if syscalls.statx(fd).key != inode.key:
            os.close(fd)
            raise stale()
        return fd

    def _open_by_name(self, inode: Inode) -> int:
        if inode.parent is None or inode.nameless:
            raise stale()
        parent_fd = self.hold(inode.parent)
        try:
            return tree.open_path(parent_fd, inode.name)
        except FileNotFoundError:
            raise stale() from None
        finally:
            self.release(inode.parent)

    def meet_device(self, status: Status, fd: int) -> None:
        """Probe a file system the first time something on it is met; `fd` is O_PATH, in that file
        system.
        """
        if status.dev in self.devices:
            return
        is_folder = stat.S_ISDIR(status.mode)
        anchor = (
            os.open(tree.fd_path(fd), os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            if is_folder
            else -1
        )
        if anchor >= 0:
            try:
                abilities = probe(anchor, self._writable)
            except OSError:
                abilities = probe(anchor, writable=False)
        else:
            abilities = Abilities("unknown", 4096, punch=True, trusted_seek=False)
        self.devices[status.dev] = Device(abilities, anchor)
