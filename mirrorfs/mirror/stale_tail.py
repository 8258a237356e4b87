"""A stale tail: old blocks that a file has below, beyond what clients may see of it.

Up to the *valid length* the file below holds what clients have written, but for one *gap* at most:
a range that a client has left out. There, and from the valid length to the *logical size*, clients
see zeros, and beyond that nothing, whatever lies below.

Here is the state of one stale tail, and what follows from it. How it begins is in `seeding`, what a
write does to it in `advancing`, how it ends in `finalising`, the gap in `gaps`; what a crash leaves
of it is recorded by `progress`; what clients see by `view`.

Changed under the lock of the open file; each field may be read without it, the valid length before
the gap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrorfs.backing.progress_table import ProgressTable
    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.backing.statx import Status


# Giving up as little as that costs less than what a stale tail asks of other operations.
_WORTH_WAITING_BYTES = 4 << 20
# A header is a small part of what was there; vhdx has the largest, 1.4 MB.
_LITTLE = 4


@dataclass(slots=True)
class StaleTail:
    """The old blocks of one open file. Lengths and sizes in bytes."""

    # --- What clients see.

    valid_length: int
    logical_size: int

    # --- What lies below.

    # The old blocks are those of another file, too.
    shared: bool
    # What they occupy beyond the valid length and in the gap.
    hidden_bytes: int

    # --- Where a crash leaves this to be found (`progress`).

    # The number of the file on `recovery_list`.
    entry: int
    # The place of the file in `table`, or -1 if it has none.
    place: int
    recovery_list: RecoveryList
    table: ProgressTable
    # What the recovery attribute says of the mount of the file system below, and of the file.
    instance: bytes
    file: bytes
    # Up to here the content is surely on the disk; known since then, on the monotonic clock (s).
    durable: int
    durable_since: float
    # The mtime of the file when its recovery attribute was written last, in seconds.
    mtime: int = 0
    # Recovery attribute and recovery list are on the disk, and say no more than is true.
    is_recorded: bool = False
    # Content below was changed since the stale tail began.
    changed: bool = False

    # --- What clients have done, by which the next step is guessed.

    # A client has written something; not zeros alone, if `has_data`.
    written: bool = False
    has_data: bool = False
    # How much was written at the valid length and beyond, but for writes of zeros alone.
    data_bytes: int = 0
    # What a client has left out before the valid length: `[start, end)`.
    gap: tuple[int, int] | None = None
    # The file was closed since, and opened again to be written on.
    resumed: bool = False

    def note_begun(self) -> None:
        """Note in the table that the file is about to be changed below, so that a crash in the
        middle of it is distinguished from a change of the file afterwards.
        """
        if self.place >= 0:
            self.table.begin(self.place)

    def note_ended(self, fd: int) -> None:
        """Note in the table how far clients have written, and how the file `fd` was left below.
        Raises OSError (fstat(2)).
        """
        if self.place >= 0:
            self.table.set(self.place, self.valid_length, self.logical_size, os.fstat(fd))

    def note_stalled(self, fd: int) -> None:
        """Note in the table if a change of the file `fd` is held up by the disk. Without the lock
        of the open file, which the thread that is held up has. Raises OSError (fstat(2)).
        """
        if self.place >= 0:
            self.table.note_stalled(self.place, fd)

    @property
    def only_grown(self) -> bool:
        """Whether the file was emptied and given a size, but no data yet: so does qemu-img, which
        also wipes the first block, and then opens the file again.
        """
        return not self.has_data and self.logical_size > self.valid_length

    @property
    def has_begun(self) -> bool:
        """Whether little was written against what would be given up: a header, most likely."""
        is_worth = self.hidden_bytes >= _WORTH_WAITING_BYTES
        return is_worth and self.data_bytes * _LITTLE <= self.hidden_bytes

    @property
    def awaits_more(self) -> bool:
        """Whether a client that closes the file is likely to come back: qemu-img writes the header
        of a virtual disk, and then opens the file again for the rest.
        """
        return self.only_grown or self.has_begun


def visible(tail: StaleTail, status: Status) -> Status:
    """The status that clients see of a file, of which `status` is true below."""
    blocks = max(0, status.blocks - tail.hidden_bytes // 512)
    return status._replace(size=tail.logical_size, blocks=blocks)
