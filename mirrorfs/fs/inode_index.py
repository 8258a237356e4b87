"""The inodes that the kernel knows, by node id and by identity; which of them gets which node id.

The node id is the inode number that clients see, and is derived (`inode_numbers`). Two inodes never
have one at a time. With its generation it makes up the file handles that clients may keep
(name_to_handle_at(2), NFS), so an inode that gets the number of one that is no more has another
generation, and the kernel refuses the old handle.
"""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from mirrorfs.fs import inode_numbers
from mirrorfs.fs.forgotten_inodes import ForgottenInodes
from mirrorfs.fs.inode_numbers import ROOT_ID

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.devices import Devices
    from mirrorfs.fs.inode import Inode


class InodeIndex:
    """`forgotten` remembers where inodes were that the kernel no longer knows."""

    def __init__(self, devices: Devices) -> None:
        self.forgotten = ForgottenInodes()
        self._devices = devices
        self._by_id: dict[int, Inode] = {}
        # (device, number) -> node id, where that is not what `Devices.number` says
        self._other: dict[tuple[int, int], int] = {}
        self._generations = itertools.count(secrets.randbits(31))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, node_id: int) -> Inode | None:
        """The inode with this node id."""
        return self._by_id.get(node_id)

    def find(self, status: Status) -> Inode | None:
        """The inode with this identity."""
        return self.by_key(status.key, status.generation)

    def by_key(self, key: tuple[int, int, int], generation: int = 0) -> Inode | None:
        """The inode with this device, number and birth time, and generation, if that is known."""
        inode = self._by_id.get(key[1])
        if inode is not None and inode.key == key and inode.may_have(generation):
            return inode
        for node_id in (self._devices.number(key[0], key[1]), self._other.get(key[:2], 0)):
            inode = self._by_id.get(node_id)
            if inode is not None and inode.key == key and inode.may_have(generation):
                return inode
        return None

    def add_root(self, inode: Inode) -> None:
        """Make the root known, whose generation is always 0 (fs/fuse/dir.c, fuse_lookup_name)."""
        self._put(inode, ROOT_ID)
        inode.generation = 0
        inode.has_own_generation = True

    def add(self, inode: Inode) -> Inode | None:
        """Make an inode known: it gets its node id, and a generation where there is none below.

        Returns the one that had this node id and is no more, which is then no longer known.
        """
        dev, number, _ = inode.key
        is_top = number < 0  # see `lookup.top`
        if is_top and inode.parent is not None:
            usual = inode_numbers.of_place(inode.parent.node_id, inode.name)
        else:
            usual = self._devices.number(dev, number)
        gone = self._by_id.get(usual)
        if gone is not None and _is_successor(inode, gone):
            inode.lookups = gone.lookups  # those are yet to be given back by the kernel
            gone.lookups = 0
            self.remove(gone)
        else:
            gone = None
        self._put(inode, self._free_id(usual))
        if not inode.generation:
            inode.has_own_generation = True
            inode.generation = (
                inode_numbers.generation_of_mount(usual, -1 - number)
                if is_top
                else next(self._generations) & 0xFFFFFFFF
            )
        return gone

    def _put(self, inode: Inode, node_id: int) -> None:
        inode.node_id = node_id
        self._by_id[node_id] = inode
        if node_id != self._devices.number(*inode.key[:2]):
            self._other[inode.key[:2]] = node_id

    def _free_id(self, node_id: int) -> int:
        while node_id in self._by_id:
            node_id = inode_numbers.next_to_try(node_id)
        return node_id

    def remove(self, inode: Inode) -> None:
        """Forget an inode that the kernel has forgotten; `forgotten` keeps its last place where its
        number does not lead to it.
        """
        del self._by_id[inode.node_id]
        if self._other.get(inode.key[:2]) == inode.node_id:
            del self._other[inode.key[:2]]
        is_numbered = inode.device is self._devices.root and inode.node_id == inode.key[1]
        if not inode.nameless and not (is_numbered and self._devices.finds_by_number):
            self.forgotten.note(inode)

    def pop_all(self) -> list[Inode]:
        """All of them, which are then no longer known."""
        inodes = list(self._by_id.values())
        self._by_id.clear()
        return inodes


def _is_successor(inode: Inode, old: Inode) -> bool:
    """Whether `old`, which is not in use, is no more where `inode` is now: that is mounted at the
    same place, or has the same number on the same file system.
    """
    if old.pins or old.nameless:
        return False
    if old.key[1] < 0 or inode.key[1] < 0:
        return old.key[1] < 0 and inode.key[1] < 0
    if old.key[1] != inode.key[1] or old.device.shift != inode.device.shift:
        return False
    # A descriptor would keep the number from being used again, unless all was mounted anew.
    return old.fd < 0 or old.device is not inode.device
