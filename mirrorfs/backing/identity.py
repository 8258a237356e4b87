"""What a file system is known by after it was mounted again, also as another device.

The number of a device does not serve: that of a btrfs subvolume is given anew with each mount, and
a loop device gets any number. Nothing here waits for a disk or a server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from mirrorfs.backing.tree import fd_path

if TYPE_CHECKING:
    from mirrorfs.backing.mounts import Mount

_XFS_IOC_FSGEOMETRY_V1 = 0x80705864  # xfs_fs.h: _IOR('X', 100, struct xfs_fsop_geom_v1)
_GEOMETRY_BYTES, _UUID = 112, slice(64, 80)


def file_system_id(path_fd: int, mount: Mount, is_local: bool) -> bytes:
    """The identity of the file system of the O_PATH descriptor `path_fd`, which lies in `mount`.

    ext4 and btrfs have an f_fsid made of their UUID (statfs(2)), btrfs another for each subvolume;
    tmpfs has one for its life. That of xfs is but the device, so its UUID is taken
    (XFS_IOC_FSGEOMETRY). A file system that is not local is known by its source in the mount table,
    such as `server:/folder`.
    """
    kind = os.fsencode(mount.fs_type)
    if not is_local:
        return b"%s %s" % (kind, mount.source)
    if mount.fs_type == "xfs":
        with contextlib.suppress(OSError):
            return b"xfs %s" % _xfs_uuid(path_fd).hex().encode()
    fsid = os.fstatvfs(path_fd).f_fsid
    return b"%s %x" % (kind, fsid) if fsid else b"%s %s" % (kind, mount.source)


def _xfs_uuid(path_fd: int) -> bytes:
    """Raises OSError if the inode may not be opened, or is neither a file nor a folder."""
    fd = os.open(fd_path(path_fd), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        geometry = bytearray(_GEOMETRY_BYTES)
        fcntl.ioctl(fd, _XFS_IOC_FSGEOMETRY_V1, geometry)
        return bytes(geometry[_UUID])
    finally:
        os.close(fd)
