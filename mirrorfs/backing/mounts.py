"""The mount table of this process, read from /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

MIRRORFS_TYPE = "fuse.mirrorfs"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
# In the source of a mirrorfs: libfuse takes ASCII alone (`daemon.main_loop`).
_ODD_BYTE = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table. `root` is the path in the file system that is mounted, `path` is
    where; `device` is MAJOR:MINOR; `options` are those of the mount and of the file system. Of a
    mirrorfs, `source` is the backing folder, and `user_id` the user who has mounted it.
    """

    mount_id: int
    root: bytes
    path: bytes
    fs_type: str
    source: bytes
    device: str
    user_id: int = 0
    parent_id: int = -1
    options: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def dev(self) -> int:
        """The device as st_dev of stat(2), but for btrfs, where each subvolume has its own; -1 if
        not known.
        """
        major, _, minor = self.device.partition(":")
        return os.makedev(int(major), int(minor or 0)) if major else -1


def mount_table() -> list[Mount]:
    """All mounts of this mount namespace, in the order in which they were mounted."""
    return parse_table(Path("/proc/self/mountinfo").read_bytes())


def parse_table(text: bytes) -> list[Mount]:
    """The mounts in the text of a mount table, in its order."""
    return [_parse(line) for line in text.splitlines()]


def mirror_mounts() -> list[Mount]:
    """The mirrorfs mounts of this mount namespace, in the order in which they were mounted."""
    return [mount for mount in mount_table() if mount.fs_type == MIRRORFS_TYPE]


def mounted_at(path: bytes) -> Mount | None:
    """The topmost mount whose root is `path` (absolute, without symbolic links), or None."""
    found = [mount for mount in mount_table() if mount.path == path]
    return found[-1] if found else None


def inside(mount: Mount) -> list[bytes]:
    """The paths of the mounts that were made inside of `mount`."""
    return [other.path for other in mount_table() if other.parent_id == mount.mount_id]


def mount_of(fd: int) -> Mount:
    """The mount that `fd` lies in, by mount id (fdinfo of proc(5)), which serves for btrfs
    subvolumes, too. One that this namespace does not show has the type `unknown` and no device.
    """
    match = re.search(
        r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE
    )
    wanted = int(match[1]) if match else -1
    for mount in mount_table():
        if mount.mount_id == wanted:
            return mount
    return Mount(wanted, b"", b"", "unknown", b"", "")


def _parse(line: bytes) -> Mount:
    """One line: id, parent, device, root, path, options, optional fields, `-`, type, source,
    options of the file system.
    """
    before, _, after = line.partition(b" - ")
    left, right = before.split(b" "), after.split(b" ")
    options = right[2].split(b",") if len(right) > 2 else []
    fs_type, source = os.fsdecode(right[0]), _unescape(right[1])
    if fs_type == MIRRORFS_TYPE:
        source = _ODD_BYTE.sub(lambda match: bytes([int(match[1], 16)]), source)
    return Mount(
        int(left[0]),
        _unescape(left[3]),
        _unescape(left[4]),
        fs_type,
        source,
        os.fsdecode(left[2]),
        next((int(word[8:]) for word in options if word.startswith(b"user_id=")), 0),
        int(left[1]),
        frozenset(os.fsdecode(word) for word in (*left[5].split(b","), *options)),
    )


def _unescape(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), text)
