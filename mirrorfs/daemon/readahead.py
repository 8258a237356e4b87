"""How far the kernel reads ahead in files of a mount (sysfs, class bdi)."""

from __future__ import annotations

from pathlib import Path

from mirrorfs.backing import mounts
from mirrorfs.fuse.optional_features import describe_feature

READAHEAD_BYTES = 1 << 20  # docs/decisions.md


class Readahead:
    """Of the mount at `mount_point`."""

    def __init__(self, mount_point: bytes) -> None:
        self._mount_point = mount_point
        self._refused = "not tried yet"

    def set(self) -> None:
        """Set it, once the mount answers; where that is not permitted, go on without. The mount
        itself is sent no request.
        """
        try:
            set_readahead(self._mount_point, READAHEAD_BYTES)
        except OSError as exc:
            self._refused = f"the kernel's own is kept: {exc.strerror or exc}"
        else:
            self._refused = ""

    def describe(self) -> dict[str, object]:
        """Whether it is set, and why not, for config.json."""
        return describe_feature(self._refused)


def set_readahead(mount_point: bytes, size_bytes: int) -> None:
    """Let the kernel read `size_bytes` ahead through the mount at `mount_point`. OSError where that
    is not permitted, or nothing is mounted there.
    """
    mount = mounts.mounted_at(mount_point)
    if mount is None:
        raise FileNotFoundError(f"{mount_point!r} is not in the mount table")
    Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").write_text(str(size_bytes >> 10))
