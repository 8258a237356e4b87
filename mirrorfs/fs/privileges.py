"""Setuid, setgid and capabilities of a file: what a change of its content, its owner or its access
list takes away, by the credentials of the client that makes it.

The kernel does so for a plain folder. For a FUSE mount with FUSE_HANDLE_KILLPRIV_V2 it says with a
write when they are to go (FUSE_WRITE_KILL_SUIDGID), leaves it to the file system at an open with
O_TRUNC, a truncation, fallocate and copy_file_range, and sends an empty setattr before a write by
mmap (file_remove_privs). Without it the kernel sends setattr itself, and nothing is left to be
taken. A file's capability goes with its next write (`OpenFile.touch`).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing import credentials, syscalls, tree
from mirrorfs.backing.statx import statx
from mirrorfs.fs.entry import refuse

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.entries import Entries
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.kernel import Kernel

_SETID = stat.S_ISUID | stat.S_ISGID


class Privileges:
    """For handlers that change the content of a file."""

    def __init__(self, entries: Entries, kernel: Kernel) -> None:
        self._entries = entries
        self._kernel = kernel

    async def drop(self, inode: Inode, caller: Credentials | None) -> None:
        """Take setuid and setgid from a file whose content `caller` changes; None stands for a
        caller without privileges. The kernel does not look at the mode again by itself.
        """
        if (await self._entries.status(inode)).mode & _SETID:
            await inode.device.threads.run(drop_setid, inode.fd, caller)
            self._kernel.drop_attributes(inode.node_id)

    async def has_capability(self, inode: Inode) -> bool:
        """Whether a file has security.capability (capabilities(7)), which a direct write would not
        take away.
        """
        found = await inode.device.threads.run(tree.find_xattr, inode.fd, tree.CAPABILITY_ATTRIBUTE)
        return found is not None


def drop_setid(fd: int, caller: Credentials | None) -> None:
    """Take setuid and setgid from the file of `fd`, whose content is changed by `caller`; None
    stands for a caller without privileges. Raises OSError.
    """
    status = statx(fd)
    taken = _taken_setid(status, caller)
    if not taken or (caller and credentials.is_capable(caller, credentials.CAP_FSETID)):
        return
    try:
        os.chmod(tree.fd_path(fd), stat.S_IMODE(status.mode) & ~taken)
    except PermissionError:
        # An ordinary user's daemon may not, and the kernel does it when that writes below.
        if os.geteuid() == 0:
            raise


def set_owner(fd: int, uid: int, gid: int, caller: Credentials) -> None:
    """Set owner and group of the inode of `fd`; -1 leaves one (chown(2)). That takes setuid and
    setgid, which only the owner may do: EPERM for others, whom the kernel lets through where both
    are left.
    """
    status = statx(fd)
    if status.mode & _SETID and not stat.S_ISDIR(status.mode):
        is_owner = caller.uid in {0, status.uid}
        if uid == gid == -1 and not is_owner and _taken_setid(status, caller):
            raise refuse(errno.EPERM)
        drop_foreign_setgid(fd, caller)
    syscalls.chown(fd, uid, gid)


def drop_foreign_setgid(fd: int, caller: Credentials) -> None:
    """Take setgid from the file of `fd` if the process that changes its owner or its ACL is not in
    its group, as the kernel does for a plain folder (posix_acl_update_mode).
    """
    status = statx(fd)
    if status.mode & stat.S_ISGID and _is_foreign(caller, status.gid):
        os.chmod(tree.fd_path(fd), stat.S_IMODE(status.mode) & ~stat.S_ISGID)


def _taken_setid(status: Status, caller: Credentials | None) -> int:
    """What a change by `caller` takes: setuid, and setgid if the group may execute the file or the
    caller is not in it (setattr_should_drop_suidgid in the kernel; inode(7)).
    """
    taken = status.mode & stat.S_ISUID
    is_foreign = caller is not None and _is_foreign(caller, status.gid)
    if status.mode & stat.S_IXGRP or is_foreign:
        taken |= status.mode & stat.S_ISGID
    return taken


def _is_foreign(caller: Credentials, gid: int) -> bool:
    """Whether a process is neither in a group nor may act as if it were (in_group_or_capable)."""
    in_group = credentials.in_group(caller, gid)
    return not (in_group or credentials.is_capable(caller, credentials.CAP_FSETID))
