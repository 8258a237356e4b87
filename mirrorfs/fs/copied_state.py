"""What a copy of a backing folder brings along of its state folder: accepted, and not kept.

Such a copy is written back through a mount with all that is in it, and its `.mirrorfs` describes
other files than those that are made here. Refusing it would end every such copy with an error, so
its files can be made, written, given attributes and renamed as others can, and are nowhere. They
are known by name as long as the kernel knows them.

Used by whoever has the turn (`turn`).
"""

from __future__ import annotations

import errno
import itertools
import logging
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing import digest_file, recovery_list, state_folder
from mirrorfs.backing.statx import Status
from mirrorfs.catalog import database
from mirrorfs.fs.entry import refuse
from mirrorfs.mirror import seed_rules

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.fs.entry import Changes

log = logging.getLogger(__name__)

# What is in a state folder, by its first part.
_KEPT_THERE = (state_folder.FORMAT_FILE, recovery_list.LIST, database.STEM, digest_file.FOLDER)


@dataclass(slots=True)
class Node:
    """One such file or folder."""

    node_id: int
    parent_id: int
    name: bytes
    status: Status  # as clients see it
    lookups: int = 0  # that the kernel has yet to take away


def is_of_a_state_folder(name: bytes) -> bool:
    """Whether something by this name is in a state folder, or will be renamed to that by the tool
    that makes it.
    """
    return any(
        one.startswith(kept)
        for one in [name, *seed_rules.replaced_names(name)]
        for kept in _KEPT_THERE
    )


class CopiedState:
    """By number, from `first_id` on, and by folder and name."""

    def __init__(self, first_id: int) -> None:
        self._numbers = itertools.count(first_id)
        self._by_id: dict[int, Node] = {}
        self._by_name: dict[tuple[int, bytes], Node] = {}
        self._is_logged = False

    def get(self, node_id: int) -> Node | None:
        return self._by_id.get(node_id)

    def find(self, parent_id: int, name: bytes) -> Node | None:
        """Counts no lookup."""
        return self._by_name.get((parent_id, name))

    def within(self, parent_id: int) -> list[Node]:
        """What a folder holds."""
        return [node for node in self._by_id.values() if node.parent_id == parent_id and node.name]

    def make(self, parent_id: int, name: bytes, mode: int, caller: Credentials) -> Node:
        """Make what `mode` says (inode(7)); EEXIST if the name is taken."""
        if self.find(parent_id, name) is not None:
            raise refuse(errno.EEXIST)
        if not self._is_logged:
            self._is_logged = True
            log.info("a copy of a state folder is being written; it is taken, but not kept")
        now, number = time.time_ns(), next(self._numbers)
        mode &= ~caller.umask | stat.S_IFMT(mode)
        nlink = 2 if stat.S_ISDIR(mode) else 1
        status = Status(
            mode, nlink, caller.uid, caller.gid, number, 0, 0, 4096, now, 0, now, now, 0, 0
        )
        node = self._by_id[number] = Node(number, parent_id, name, status)
        self._by_name[parent_id, name] = node
        return node

    def remove(self, parent_id: int, name: bytes) -> bool:
        """Remove a name; returns whether there was one. ENOTEMPTY for a folder with something in
        it.
        """
        node = self._by_name.get((parent_id, name))
        if node is None:
            return False
        if self.within(node.node_id):
            raise refuse(errno.ENOTEMPTY)
        del self._by_name[parent_id, name]
        node.name = b""
        return True

    def rename(self, parent_id: int, name: bytes, new_parent_id: int, new_name: bytes) -> None:
        """ENOENT if there is nothing by the old name."""
        node = self._by_name.pop((parent_id, name), None)
        if node is None:
            raise refuse(errno.ENOENT)
        met = self._by_name.get((new_parent_id, new_name))
        if met is not None:
            met.name = b""
        node.parent_id, node.name = new_parent_id, new_name
        self._by_name[new_parent_id, new_name] = node

    def note_written(self, node_id: int, end: int) -> None:
        """Let a file be as long as what was written to it."""
        node = self._by_id.get(node_id)
        if node is not None and end > node.status.size:
            node.status = node.status._replace(size=end, mtime_ns=time.time_ns())

    def set(self, node_id: int, changes: Changes) -> None:
        """Set attributes."""
        node = self._by_id.get(node_id)
        if node is None:
            return
        now = node.status
        mode = None if changes.mode is None else stat.S_IFMT(now.mode) | stat.S_IMODE(changes.mode)
        wanted = changes._replace(mode=mode)._asdict()
        known = {name: value for name, value in wanted.items() if value is not None}
        node.status = now._replace(**known)

    def forget(self, node_id: int, lookups: int) -> None:
        """Take lookups away, as the kernel does."""
        node = self._by_id.get(node_id)
        if node is None:
            return
        node.lookups -= lookups
        if node.lookups <= 0:
            del self._by_id[node_id]
            if self._by_name.get((node.parent_id, node.name)) is node:
                del self._by_name[node.parent_id, node.name]
