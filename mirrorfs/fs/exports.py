"""What a file handle leads to that the kernel has forgotten (name_to_handle_at(2), NFS).

The kernel has the node id, and the generation, which it compares itself: it looks up `.` in the
former, whatever it is, and `..` in a folder, to find its place in the tree (fs/fuse/inode.c,
fuse_get_dentry and fuse_get_parent). ENOENT becomes ESTALE there. Like any lookup, these count.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import by_number
from mirrorfs.fs.control import ControlFolder, refuse
from mirrorfs.fs.inode_numbers import ROOT_ID
from mirrorfs.fs.pinned_inodes import Pinned

if TYPE_CHECKING:
    import pyfuse3

    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.forgotten_inodes import Place
    from mirrorfs.fs.names import NameOperations


async def lookup(of: NameOperations, node_id: int) -> pyfuse3.EntryAttributes:
    """The entry of a node id that may be forgotten; ENOENT if that is not found again."""
    if of.inodes.known.get(node_id) is not None:
        return await _count(of, node_id)
    place = of.inodes.known.forgotten.place_of(node_id)
    entry = await (_lookup_number(of, node_id) if place is None else _lookup_at(of, place))
    if entry.st_ino != node_id:
        of.state.forget(entry.st_ino, 1)
        raise refuse(errno.ENOENT)
    return entry


async def lookup_parent(of: NameOperations, node_id: int) -> pyfuse3.EntryAttributes:
    """The entry of the folder around another; ENOENT if that is not in the mount."""
    if ControlFolder.owns(node_id):
        return await _count(of, ROOT_ID)
    async with Pinned(of.inodes, (node_id,)) as (inode,):
        if inode.device is of.devices.root:
            run, root_fd = inode.device.workers.run, of.inodes.root_fd
            fd, status = await run(by_number.open_parent, root_fd, inode.fd)
            if status.dev == inode.device.dev:
                return await _adopt(of, fd, status)
            os.close(fd)
        return await lookup(of, (inode.parent or of.inodes.root).node_id)


async def _lookup_number(of: NameOperations, node_id: int) -> pyfuse3.EntryAttributes:
    if not of.devices.finds_by_number:
        raise refuse(errno.ENOENT)
    device, root_fd = of.devices.root, of.inodes.root_fd
    fd, status = await device.workers.run(by_number.open_number, root_fd, device.kind, node_id)
    return await _adopt(of, fd, status)


async def _lookup_at(of: NameOperations, place: Place) -> pyfuse3.EntryAttributes:
    await lookup(of, place.parent_id)
    try:
        return await of.lookup(place.parent_id, place.name, None)
    finally:
        of.state.forget(place.parent_id, 1)


async def _adopt(of: NameOperations, fd: int, status: Status) -> pyfuse3.EntryAttributes:
    await of.state.leftovers.finish(status.ino, of.devices.root)
    inode = of.inodes.adopt_unnamed(status, fd)
    try:
        return await _count(of, inode.node_id)
    finally:
        of.state.forget(inode.node_id, 1)


async def _count(of: NameOperations, node_id: int) -> pyfuse3.EntryAttributes:
    """The entry of an inode that is known, with one lookup more."""
    async with Pinned(of.inodes, (node_id,)) as (inode,):
        entry = await of.getattr(node_id, None)
        inode.lookups += 1
        return entry
