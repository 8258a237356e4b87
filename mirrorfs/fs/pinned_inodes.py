"""Inodes that a request pins while it needs their descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable


class Pinned:
    """`async with Pinned(table, node_id, ...) as inodes`: these inodes have their descriptors while
    the block runs. ESTALE if one is not known, or cannot be found again.
    """

    __slots__ = ("_node_ids", "_pinned", "_table")

    def __init__(self, table: InodeTable, *node_ids: int) -> None:
        self._table = table
        self._node_ids = node_ids
        self._pinned: list[Inode] = []

    async def __aenter__(self) -> list[Inode]:
        try:
            for node_id in self._node_ids:
                inode = self._table.get(node_id)
                await self._table.pin(inode)
                self._pinned.append(inode)
        except BaseException:
            self._unpin()
            raise
        return self._pinned

    async def __aexit__(self, *_error: object) -> None:
        self._unpin()

    def _unpin(self) -> None:
        for inode in self._pinned:
            self._table.unpin(inode)
