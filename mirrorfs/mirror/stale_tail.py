"""The tail of an unsettled file: old blocks that lie below beyond what clients may see.

Up to the *frontier* the file below holds what clients have written, but for one *gap* at most: a
range that a client has left out. There, and from the frontier to the *visible size*, they see
zeros, and beyond it nothing, whatever lies below. Here is what each question about such a file is
answered with; how a tail comes and goes is in `seeding`, a gap in `gaps`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.progress_table import ProgressTable
    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.backing.statx import Status


# Giving up as little as that costs less than what a file that is not settled asks of others.
_WORTH_WAITING_BYTES = 4 << 20
# A header is a small part of what was there; vhdx has the largest, 1.4 MB.
_LITTLE = 4


@dataclass(slots=True)
class StaleTail:
    """Sizes in bytes. Changed under the lock of the file; each field may be read without it, the
    frontier before the gap.

    `shared` says that the old blocks are another file's, too. `hidden_bytes` is what they occupy
    beyond the frontier and in the gap. `entry` is the number on the list of unsettled files,
    `place` that in the table `progress`, or -1. `instance` and `file` go with the mark, in which
    `durable` is the part that is surely on the disk, known since `durable_since` on the monotonic
    clock, and `mtime` the time of the file when it was marked, in seconds. `marked` says that mark
    and list are on the disk, `changed` that something below was changed since, `written` that a
    client has written something, `has_data` that this was not zeros alone. `data_bytes` is how much
    was written at the frontier and beyond, but for writes of zeros alone. `gap` is `[start, end)`.
    `resumed` says that the file was closed since, and opened again to be written on.
    """

    frontier: int
    size: int
    shared: bool
    hidden_bytes: int
    entry: int
    place: int
    recovery_list: RecoveryList
    table: ProgressTable
    instance: bytes
    file: bytes
    durable: int
    durable_since: float
    mtime: int = 0
    marked: bool = False
    changed: bool = False
    written: bool = False
    has_data: bool = False
    data_bytes: int = 0
    gap: tuple[int, int] | None = None
    resumed: bool = False

    def note_begun(self) -> None:
        """Note in the table that the file is about to be changed below, so that a crash in the
        middle of it is distinguished from a change of the file afterwards.
        """
        if self.place >= 0:
            self.table.begin(self.place)

    def note_ended(self, fd: int) -> None:
        """Note in the table where the frontier is now, and how the file `fd` was left."""
        if self.place >= 0:
            self.table.set(self.place, self.frontier, self.size, os.fstat(fd))

    def note_stalled(self, fd: int) -> None:
        """Note it if a change of the file `fd` is held up by the disk. It is not in need of the
        lock of the file, which somebody has meanwhile.
        """
        if self.place >= 0:
            self.table.note_stalled(self.place, fd)

    @property
    def only_grown(self) -> bool:
        """Whether the file was emptied and given a size, but no data yet: so does qemu-img, which
        also wipes the first block, and then opens the file again.
        """
        return not self.has_data and self.size > self.frontier

    @property
    def has_begun(self) -> bool:
        """Whether little was written against what would be given up: a header, most likely."""
        is_worth = self.hidden_bytes >= _WORTH_WAITING_BYTES
        return is_worth and self.data_bytes * _LITTLE <= self.hidden_bytes

    @property
    def awaits_more(self) -> bool:
        """Whether a writer who closes the file is likely to come back: qemu-img writes the header
        of a virtual disk, and then opens the file again for the rest.
        """
        return self.only_grown or self.has_begun


def visible(tail: StaleTail, status: Status) -> Status:
    """What a client is told of a file, of which `status` is true below."""
    blocks = max(0, status.blocks - tail.hidden_bytes // 512)
    return status._replace(size=tail.size, blocks=blocks)
