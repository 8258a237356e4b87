"""Descriptors by which clients read a backing file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.probe import Abilities


class Reader(NamedTuple):
    """A descriptor for a client's reads."""

    fd: int  # -1 for none
    seek_proven: bool  # SEEK_DATA is right for this file (`seek_answers`)


NO_READER = Reader(-1, seek_proven=False)


def open_reader(
    path_fd: int,
    keeps_atime: bool,
    abilities: Abilities,
    check: Callable[[int], None] = lambda _fd: None,
) -> Reader:
    """Open the inode of the O_PATH descriptor `path_fd` for reading.

    With `keeps_atime` reading moves no time of access, where the file system permits that. `check`
    is called with the new descriptor; what it raises refuses the open.
    """
    fd = tree.open_for_reading(path_fd, os.O_NONBLOCK, keeps_atime)
    try:
        check(fd)
        return Reader(fd, abilities.tells_holes(fd))
    except OSError:
        os.close(fd)
        raise
