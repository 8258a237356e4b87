"""One session that is under way. Whoever has the turn changes it; the recorder's thread reads it
when it is over.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.catalog.endings import Observed
from mirrorfs.catalog.session import Ending

if TYPE_CHECKING:
    from mirrorfs.catalog.session import Session
    from mirrorfs.mirror.counters import FileKey
    from mirrorfs.mirror.tally import Tally


_SEVERITY = {Ending.CLOSED: 0, Ending.EXITED: 1, Ending.KILLED: 2}


def worse(one: Ending, other: Ending) -> Ending:
    """The worse of two ways in which writers end."""
    return max(one, other, key=_SEVERITY.__getitem__)


@dataclass(slots=True, eq=False)
class Live:
    """A session that is under way."""

    key: FileKey
    path: bytes  # below the backing folder, as it is now
    tally: Tally
    begun: Session  # as it was at the beginning
    is_new: bool
    last: float  # when the last writer closed it, or something else belonged to it (monotonic)
    end_ns: int
    is_open: bool = True
    is_removed: bool = False
    is_failed: bool = False
    # How its writers ended since it was opened last, and when that was, in bytes received; and how
    # those before did.
    closed: Ending = Ending.CLOSED
    opened_at: int = 0
    closed_before: Ending = Ending.CLOSED
    stamped_at: int = -1  # how many bytes had been received when its mtime was set last
    is_epoch: bool = False  # that was set to second 0 of the epoch
    errors: Counter[str] = field(default_factory=Counter)
    linked: bytes | None = None  # another path that it was given
    # What it replaced, when it got its final name: size and allocated, in bytes.
    replaced: tuple[int, int] | None = None
    number: int = 0  # in the catalog; the recorder's

    def touch(self) -> None:
        """Note that something came that belongs to it."""
        self.last, self.end_ns = time.monotonic(), time.time_ns()

    def reopen(self) -> None:
        """Note that a writer has come back: if it writes, how those before ended is made good."""
        self.closed_before, self.closed = self._ended(), Ending.CLOSED
        self.opened_at = self.tally.counters.received_bytes

    def _ended(self) -> Ending:
        if self.tally.counters.received_bytes > self.opened_at:
            return self.closed
        return worse(self.closed, self.closed_before)

    def observed(self, is_open: bool) -> Observed:
        """What was seen of its writers, one of which still has it open if `is_open`."""
        is_stamped = self.stamped_at == self.tally.counters.received_bytes
        return Observed(
            self.path,
            self.is_removed,
            is_open,
            self.is_failed,
            self._ended(),
            is_stamped,
            is_stamped and self.is_epoch,
        )
