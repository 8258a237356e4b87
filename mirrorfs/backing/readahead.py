"""How far the kernel reads ahead in a mount (Documentation/ABI/testing/sysfs-class-bdi)."""

from __future__ import annotations

from pathlib import Path

from mirrorfs.backing import mounts


def set_readahead(mount_point: bytes, size_bytes: int) -> None:
    """Let the kernel read `size_bytes` ahead through the mount at `mount_point`.

    Sends no request to the mount. Raises OSError where that is not permitted, as for an ordinary
    user, or where nothing is mounted.
    """
    mount = mounts.mounted_at(mount_point)
    if mount is None:
        raise FileNotFoundError(f"{mount_point!r} is not in the mount table")
    Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").write_text(str(size_bytes >> 10))
