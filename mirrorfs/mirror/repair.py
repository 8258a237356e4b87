"""Settle the files that a crash has left unsettled (`seeding`), before they are served again.

Where the daemon alone has died, all that clients had written is still there, and a file ends where
it did for them. After a power cut, or on another mount of the file system below, only what is known
to be on the disk is kept. A crash in here leaves files that are settled, or still marked and
listed.

A backing folder may be a copy or a snapshot of one that is being written at this moment: nothing in
here may touch the files of that one.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import ledger, mark, syscalls, tree, unsettled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.backing.unsettled import Entry


def repair(root_fd: int, folder: bytes) -> list[bytes]:
    """Settle what is on the list in the state folder `folder`, and empty it. Returns the paths of
    the files that were settled, below the backing folder `root_fd`. Raises OSError.
    """
    entries = unsettled.read_list(folder)
    owner = ledger.owner_of(folder)
    settled = [entry.path for entry in entries if _repair_one(root_fd, entry, owner)]
    # Also of a last line that is cut off, to which the next one would be added.
    unsettled.clear(folder)
    ledger.remove_all(owner)
    return settled


def _repair_one(root_fd: int, entry: Entry, owner: str) -> bool:
    """Whether the file of `entry` was found with a mark, and is settled now."""
    for path_fd in _places(root_fd, entry):
        try:
            if os.fstat(path_fd).st_ino != entry.ino and not entry.is_copied:
                continue
            fd = os.open(tree.fd_path(path_fd), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(path_fd)
        try:
            found = mark.read(fd)
            if found is not None:
                _fill_gap(fd, found, entry, owner)
                _cut(fd, *_end(fd, found, entry, owner))
                return True
        finally:
            os.close(fd)
    return False


def _end(fd: int, found: mark.Mark, entry: Entry, owner: str) -> tuple[int, int]:
    """The frontier and the size, in bytes, that the file `fd` is to have."""
    if mark.instance_of(fd) == found.instance and not entry.is_copied:
        if found.table == ledger.NONE:
            return found.frontier, found.size
        noted = ledger.read(owner, found.table, found.place, entry.number)
        if noted is not None:
            return noted.frontier, noted.size
    size = found.durable if found.size == found.frontier else found.size
    return found.durable, size


def _fill_gap(fd: int, found: mark.Mark, entry: Entry, owner: str) -> None:
    """Make zeros of what a client has left out (`gaps`)."""
    if mark.instance_of(fd) == found.instance and not entry.is_copied:
        start, end = ledger.read_gap(owner, found.table, found.place, entry.number)
        if start < end:
            syscalls.punch_hole(fd, start, end)


def _cut(fd: int, frontier: int, size: int) -> None:
    before = os.fstat(fd)
    os.ftruncate(fd, min(frontier, before.st_size))
    os.ftruncate(fd, size)
    with contextlib.suppress(OSError):  # only root and the owner may
        tree.set_times(fd, None, before.st_mtime_ns)
    os.fsync(fd)
    os.removexattr(fd, mark.NAME)
    os.fsync(fd)


def _places(root_fd: int, entry: Entry) -> Iterator[int]:
    """O_PATH descriptors, which become the caller's, of where the file may be: by its handle,
    wherever it was moved to; by its path; and for a user who may not use handles, anywhere.
    """
    by_handle = False
    if entry.handle and not entry.is_copied:
        with contextlib.suppress(OSError):
            found = syscalls.open_by_handle(root_fd, entry.handle)
            by_handle = True
            # On btrfs a handle in a snapshot leads to the subvolume it was made of.
            if os.fstat(found).st_dev == os.fstat(root_fd).st_dev:
                yield found
            else:
                os.close(found)
    with contextlib.suppress(OSError):
        yield syscalls.open_beneath(root_fd, entry.path, os.O_PATH)
    if not (by_handle or entry.is_copied) and os.geteuid():
        for _, _, names, folder_fd in os.fwalk(".", dir_fd=root_fd):
            for name in names:
                with contextlib.suppress(OSError):
                    if os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_ino == entry.ino:
                        yield tree.open_path(folder_fd, os.fsencode(name))
