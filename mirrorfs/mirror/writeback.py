"""What stays known of a file after its last writer has closed it: whether its content may never
have reached the disk, and whether a client has reserved space in it.

One object for each inode, shared by reference: the open file (`open_file`) changes it, and the
mount keeps it for the next open, as long as it says something. Changed under the lock of the open
file, or where no file is open; each field may be read without it. Nothing of it survives the mount:
a crash leaves the kernel's page cache, which is then dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_MAX_RANGES = 1000


@dataclass(slots=True)
class Writeback:
    """How far what clients wrote to one file may be believed to reach the disk."""

    # An fsync has failed: the kernel may show data that never reached the disk and call it clean
    # (PostgreSQL, "fsyncgate"). So nothing in this file is called unchanged, and no hole is
    # believed, until all of it was written anew and synced, or it was truncated to nothing.
    failed: bool = False
    # Its errno, until it was reported to the clients that have the file open; 0 if it was. The
    # kernel reports it once, and to the call that happened to sync.
    unreported_errno: int = 0
    # What was written since it failed, as `[start, end)` in bytes: ascending, apart. Of the present
    # opening only: what the kernel failed to write back between two is reported to neither.
    rewritten: list[tuple[int, int]] = field(default_factory=list)
    # A client has preallocated blocks (fallocate(2)), which stay with the file until it is
    # truncated to nothing.
    reserved: bool = False

    def note_opened(self) -> None:
        """Note that the file is opened anew: what was written through an earlier opening counts no
        longer (`rewritten`).
        """
        self.rewritten = []

    def note_failure(self, unreported_errno: int = 0) -> None:
        """Note that a sync failed: from now on all has to be written anew. `unreported_errno` is
        the error, if clients have yet to learn of it.
        """
        self.failed, self.rewritten = True, []
        self.unreported_errno = unreported_errno

    def note_rewritten(self, start: int, end: int) -> None:
        """Note that `[start, end)`, in bytes, was written, if that matters."""
        if not self.failed or start >= end:
            return
        apart = [(a, b) for a, b in self.rewritten if b < start or end < a]
        joined = [(a, b) for a, b in self.rewritten if not (b < start or end < a)]
        start = min([start, *(a for a, _ in joined)])
        end = max([end, *(b for _, b in joined)])
        self.rewritten = sorted([*apart, (start, end)])[:_MAX_RANGES]

    def note_synced(self, size: int) -> bool:
        """Note that a file of `size` bytes was synced; returns whether that has made good an
        earlier failure, because all of the file was written since.
        """
        rewritten = self.rewritten
        if not (self.failed and rewritten and rewritten[0][0] == 0 <= size):
            return False
        self.failed = rewritten[0][1] < size
        return not self.failed
