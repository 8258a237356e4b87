"""Where inodes were that the kernel has forgotten, for file handles that outlive that.

A handle that a client keeps (name_to_handle_at(2), NFS) holds the node id. What cannot be found by
that (`by_number`) is looked for at its last place, and refused if it is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mirrorfs.fs.inode import Inode

_REMEMBERED = 20_000  # 5 MB; of more handles than that, the oldest ones become stale


class Place(NamedTuple):
    """A name in a folder, which may be forgotten, too."""

    parent_id: int
    name: bytes


class ForgottenInodes:
    """The last places of the inodes that were forgotten most recently."""

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}

    def note(self, inode: Inode) -> None:
        """Remember where an inode was that the kernel has forgotten."""
        if inode.parent is not None:
            self._places.pop(inode.node_id, None)
            self._places[inode.node_id] = Place(inode.parent.node_id, inode.name)
            if len(self._places) > _REMEMBERED:
                del self._places[next(iter(self._places))]

    def place_of(self, node_id: int) -> Place | None:
        """Where the inode with this node id was; None if that is not remembered."""
        return self._places.get(node_id)
