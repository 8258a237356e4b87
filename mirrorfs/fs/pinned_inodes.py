"""Inodes kept by a request while it needs their descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.fs.inodes import Inode, InodeTable


class Pinned:
    """`async with Holding(table, node_ids) as inodes`: these inodes have their descriptors while
    the block runs. ESTALE if one is not known, or cannot be found again.
    """

    __slots__ = ("_held", "_node_ids", "_table")

    def __init__(self, table: InodeTable, node_ids: tuple[int, ...]) -> None:
        self._table = table
        self._node_ids = node_ids
        self._held: list[Inode] = []

    async def __aenter__(self) -> list[Inode]:
        try:
            for node_id in self._node_ids:
                inode = self._table.get(node_id)
                await self._table.hold(inode)
                self._held.append(inode)
        except BaseException:
            self._release()
            raise
        return self._held

    async def __aexit__(self, *_error: object) -> None:
        self._release()

    def _release(self) -> None:
        for inode in self._held:
            self._table.release(inode)
