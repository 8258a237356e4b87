"""Whether two folders share files, by the mount table alone, so that nothing can hang.

A place is the device of a file system and a path inside it. Each folder has just one place, however
it is mounted: bind mounts lead to the same one, and so does a folder under a mount that hides it.
What the table does not say stays unknown: a folder that was renamed since, a mount in another
namespace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.backing.mounts import Mount


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of a file system, whatever it is mounted on."""

    device: str
    path: bytes

    def holds(self, other: Place) -> bool:
        """Whether `other` is this folder, or lies below it."""
        return self.device == other.device and _is_below(other.path, self.path)


def overlap(one: bytes, other: bytes, table: Iterable[Mount]) -> bool:
    """Whether files can be reached through both folders. Paths are absolute and without symbolic
    links; `table` holds the mounts that lie below them, not those that show them.
    """
    mounts = list(table)
    here, there = _place(one, mounts), _place(other, mounts)
    # A file system that is mounted inside both of them, as /proc in two chroots, does not count.
    return any(here.holds(place) or place.holds(here) for place in _reach(other, mounts)) or any(
        there.holds(place) or place.holds(there) for place in _reach(one, mounts)
    )


def _reach(folder: bytes, mounts: list[Mount]) -> list[Place]:
    """Where the folder leads: its own place, and the roots of all that is mounted inside it."""
    inside = [
        Place(mount.device, mount.root)
        for mount in mounts
        if mount.path != folder and _is_below(mount.path, folder)
    ]
    return [_place(folder, mounts), *inside]


def _place(folder: bytes, mounts: list[Mount]) -> Place:
    # Of several mounts on one path the last lies on top.
    above = [mount for mount in mounts if _is_below(folder, mount.path)]
    if not above:
        return Place("", folder)
    mount = max(enumerate(above), key=lambda item: (len(item[1].path), item[0]))[1]
    rest = folder[len(mount.path.rstrip(b"/")) :]
    return Place(mount.device, (mount.root.rstrip(b"/") + rest).rstrip(b"/") or b"/")


def _is_below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
