"""Find the old file that is to be the seed of a new one.

Only a file that the caller may read: the counters would else show what is in it. Nothing is
changed, so a crash leaves nothing. May be called from any thread, without a lock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing import acl, credentials, tree
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import seed_rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.statx import Status


@dataclass(frozen=True, slots=True)
class OldFile:
    """A file that may become a seed."""

    fd: int  # for reading; its owner closes it
    status: Status  # when it was opened


def open_old(path_fd: int, status: Status) -> OldFile | None:
    """The file of the O_PATH descriptor `path_fd`, with that `status`, opened for reading; None if
    it is not worth being a seed, or cannot be read.
    """
    if not seed_rules.is_worth(status.mode, status.blocks):
        return None
    try:
        fd = os.open(tree.fd_path(path_fd), os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    except OSError:
        return None
    return OldFile(fd, status)


def find(
    parent_fd: int, unlinked: OldFile | None, names: Iterable[bytes], caller: Credentials
) -> int:
    """A descriptor for reading the file that may be a seed for `caller`: `unlinked`, whose
    descriptor is returned or closed, or the first of `names` in the folder `parent_fd`; -1 if there
    is none. A symbolic link is not followed.
    """
    if unlinked is not None:
        if may_read(unlinked.fd, unlinked.status, caller):
            return unlinked.fd
        os.close(unlinked.fd)
    for name in names:
        try:
            old = _open_name(parent_fd, name)
        except OSError:
            continue
        if old is not None:
            if may_read(old.fd, old.status, caller):
                return old.fd
            os.close(old.fd)
    return -1


def _open_name(parent_fd: int, name: bytes) -> OldFile | None:
    path_fd = tree.open_path(parent_fd, name)
    try:
        return open_old(path_fd, statx(path_fd))
    finally:
        os.close(path_fd)


def may_read(fd: int, status: Status, caller: Credentials) -> bool:
    """Whether `caller` may read the file `fd` with that `status`; the descriptor may be O_PATH.
    Raises OSError (getxattr(2)).
    """
    if caller.uid == 0:
        return True
    in_group = credentials.in_group(caller, status.gid)
    has_acl = tree.find_xattr(fd, acl.ACCESS) is not None
    return seed_rules.may_read(status.mode, status.uid, has_acl, caller.uid, in_group)
