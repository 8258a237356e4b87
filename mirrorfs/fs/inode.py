"""One inode that the kernel knows."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.devices import Device


class Inode:
    """Identity, place and descriptor of one inode; only who has the turn changes it."""

    __slots__ = (
        "device",
        "fd",
        "generation",
        "handle",
        "has_own_generation",
        "is_visiting",
        "key",
        "kind",
        "lookups",
        "name",
        "nameless",
        "node_id",
        "parent",
        "pins",
    )

    def __init__(self, device: Device, status: Status, parent: Inode | None, name: bytes) -> None:
        self.node_id = 0  # until the index gives it one
        self.device = device
        self.key = (device.dev, status.ino, status.btime_ns)  # Status.key
        self.kind = stat.S_IFMT(status.mode)
        # Tells it from others that have had its node id, also in file handles. Made up here where
        # the file system below has none (`has_own_generation`).
        self.generation = status.generation
        self.has_own_generation = False
        self.parent = parent  # where it was last seen
        self.name = name
        self.fd = -1  # O_PATH; -1 while it is given up
        self.handle: bytes | None = None  # open_by_handle_at(2), noted when `fd` is given up
        self.lookups = 0  # that the kernel has yet to take away (FUSE_FORGET)
        self.pins = 0  # requests and open handles that need `fd`
        self.nameless = False  # its last name is gone: only `fd` leads to it
        self.is_visiting = False  # it lies in another mount than the backing folder's own

    def may_have(self, generation: int) -> bool:
        """Whether it can be the inode with this generation below, of which 0 says nothing."""
        return self.has_own_generation or generation in {0, self.generation}

    def path_of(self, name: bytes) -> bytes:
        """The path below the root of `name` in this folder."""
        folder = self.path()
        return folder + b"/" + name if folder else name

    def path(self) -> bytes:
        """The path below the root by which it was last seen, for messages, reports and the recovery
        list. May be called in any thread.
        """
        parts: list[bytes] = []
        inode: Inode | None = self
        while inode is not None and inode.parent is not None:
            parts.append(inode.name or b"inode %d" % inode.node_id)
            inode = inode.parent
        return b"/".join(reversed(parts))
