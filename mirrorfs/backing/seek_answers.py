"""Whether a hole that SEEK_DATA reports may be taken for one.

A file system easily passes over what is not written to the disk yet, and a reader that believes it
sees zeros there (OpenZFS before 2.2.2; ext4 for files that map their blocks one by one). So three
things must hold, and where one does not, the file is read instead:

- the type is one of local file systems that answer from memory. One that could pass by luck and err
  later is not tried: network file systems, OpenZFS, and overlay, which does not say which file
  system holds a file;
- the file system passes a test at mount (`prove`): it finds what was just written behind a hole;
- the file, when it is opened, has the flags for it (`is_right_for`): on one file system the files
  are not all alike.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing import holes, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

TRIED = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})
_UNIT = 65536  # a multiple of every allocation unit
_PROOF_BYTES = 32 * _UNIT
_DATA = b"\x55"
_FLAGS = {
    "ext4": syscalls.inode_flags,
    "btrfs": syscalls.inode_flags,
    "xfs": syscalls.extended_flags,
}


def is_right_for(fd: int, file_system: str) -> bool:
    """Whether the answers for the open file `fd` can be believed, on a file system of the type
    `file_system` that was proven. Does not wait for the disk.
    """
    if file_system not in _FLAGS:
        return file_system in TRIED
    try:
        return is_right_with(_FLAGS[file_system](fd), file_system)
    except OSError:
        return False


def is_right_with(flags: int, file_system: str) -> bool:
    """Whether the answers for a file with these flags can be believed, on a file system of the type
    `file_system` that was proven: on ext4 and btrfs the flags are those of ioctl_iflags(2), on xfs
    those of ioctl_xfs_fsgetxattr(2).

    Without extents, ext4 skips from one allocated block to the next (ext4_ind_map_blocks), over
    data that was given no block yet. Files that lie in their inode have none either. A hole in a
    file with fs-verity is checked when it is read (Documentation/filesystems/fsverity.rst). What
    lies on a realtime device of xfs is not what `prove` has tried.
    """
    if file_system == "xfs":
        return not flags & syscalls.FS_XFLAG_REALTIME
    if flags & syscalls.FS_VERITY_FL:
        return False
    return file_system != "ext4" or bool(flags & syscalls.FS_EXTENT_FL)


def prove(fd: int) -> bool:
    """Whether everything that is stored in the file `fd`, which loses its content, is found by
    SEEK_DATA before it is written back. False where there is no space to try it.
    """
    try:
        return all(_is_found(fd, store) for store in _WAYS)
    except OSError:
        return False


def _is_found(fd: int, store: Callable[[int], None]) -> bool:
    os.ftruncate(fd, 0)
    try:
        store(fd)
    except OSError as exc:
        if not syscalls.is_unsupported(exc):
            raise
        return True  # no file can come to be so
    size = os.fstat(fd).st_size
    place = 0
    for start, end in [*holes.data_ranges(fd, 0, size), (size, size)]:
        if os.pread(fd, start - place, place).strip(b"\0"):
            return False
        place = end
    return True


def _behind_holes(fd: int) -> None:
    """Single bytes and blocks, on both sides of what a block map holds without indirect blocks."""
    os.ftruncate(fd, _PROOF_BYTES)
    for place in (1, 3 * _UNIT, 17 * _UNIT + 4095, 30 * _UNIT, _PROOF_BYTES - 1):
        os.pwrite(fd, _DATA, place)


def _after_punching(fd: int) -> None:
    os.pwrite(fd, _DATA * 8 * _UNIT, 0)
    syscalls.punch_hole(fd, _UNIT, 7 * _UNIT)
    os.pwrite(fd, _DATA * 4096, 3 * _UNIT)
    os.pwrite(fd, _DATA, 5 * _UNIT + 1000)


def _over_preallocated_space(fd: int) -> None:
    syscalls.preallocate(fd, 0, 8 * _UNIT, keep_size=False)
    os.pwrite(fd, _DATA, 0)
    os.pwrite(fd, _DATA * 4096, 2 * _UNIT + 4096)
    os.pwrite(fd, _DATA, 8 * _UNIT - 1)


def _in_a_small_file(fd: int) -> None:
    os.pwrite(fd, _DATA * 40, 0)


def _in_a_small_file_that_grows(fd: int) -> None:
    _in_a_small_file(fd)
    os.pwrite(fd, _DATA, 4 * _UNIT + 77)


_WAYS = (
    _behind_holes,
    _after_punching,
    _over_preallocated_space,
    _in_a_small_file,
    _in_a_small_file_that_grows,
)
