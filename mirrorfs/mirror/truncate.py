"""Set the size of a client's file.

Guarantees: clients see the new size, with zeros in what is new, as soon as `truncate` returns; an
error leaves the size as it was. A crash leaves the old size or the new one, or, with a seed, a file
that the next mount finalises. Called by any thread; takes the lock of the open file.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls, tree
from mirrorfs.mirror import advancing, seeding
from mirrorfs.mirror.resizing import NO_END, resize

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile


def truncate(file: OpenFile, size: int, seeds: bool = False, is_open: bool = True) -> None:
    """Set the size, in bytes, and count what that frees below. Raises OSError (ftruncate(2)).

    With `seeds`, a file that is cut keeps its blocks as the seed of what is written next, where
    that is worth it. Without, a last block that is cut down to zeros becomes a hole: it would
    otherwise stay stored until it is written again. `is_open` tells ftruncate(2) from truncate(2).
    """
    with file.lock:
        file.begin_digests()
        if file.stale_tail is not None:
            advancing.set_logical_size(file, file.stale_tail, size)
            return
        if seeds and seeding.keep(file, size):
            return
        before = os.fstat(file.fd)
        if size != before.st_size or not _is_done(file, size, is_open):
            resize(file, before.st_size, size)
        if not size:
            file.writeback.reserved = False  # what was preallocated is free, beyond the end, too
        file.count_freed(before)


def _is_done(file: OpenFile, size: int, is_open: bool) -> bool:
    """Whether a file that has its new size already, and nothing allocated beyond it, needed no more
    than its times moved.

    rsync cuts every file that it writes in place to its size, and ftruncate(2) on btrfs and ext4
    writes more metadata than new times do. truncate(2) moves them on some file systems only.
    """
    try:
        if not is_open:
            os.truncate(tree.fd_path(file.fd), size)
            return True
        end = size + -size % file.abilities.unit_bytes
        # No size makes a failed writeback good.
        if not size or file.has_capability or syscalls.count_extents(file.fd, end, NO_END):
            return False
        syscalls.move_mtime(file.fd)
    except OSError:  # ftruncate(2) reports what there is to report
        return False
    return True
