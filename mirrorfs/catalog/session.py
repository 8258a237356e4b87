"""One session: the writes of one run to one file, and how they ended."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from mirrorfs.backing.paths import path_text
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.counters import Counters


class Ending(StrEnum):
    """How a session ended."""

    CLOSED = "closed"  # the last writer closed the file
    EXITED = "exited"  # its process ended without closing it
    KILLED = "killed"  # a signal ended that process
    UNMOUNTED = "unmounted"  # a writer still had the file open
    DAEMON_DIED = "daemon-died"  # found open by the next mount
    FAILED = "failed"  # a write or fsync was refused
    ABANDONED = "abandoned"  # removed, or left with a temporary name
    UNSTAMPED = "unstamped"  # a program that sets the times of its copies has not set these


GOOD = frozenset({Ending.CLOSED, Ending.EXITED})


@dataclass(frozen=True, slots=True)
class Session:
    """Paths lie below the backing folder; sizes in bytes, times in ns since the epoch. None stands
    for what is not known.
    """

    path: bytes  # the name that the content was meant for
    begin_ns: int
    program: str  # of the first writer (comm in proc(5)); empty if not known
    uid: int
    device: int = 0
    inode: int = 0
    born_ns: int = 0
    written_as: bytes | None = None  # where it was left with a temporary name
    end_ns: int | None = None
    ended: Ending | None = None  # None while it goes on
    size_before: int | None = None
    size_after: int | None = None
    allocated_before: int | None = None
    allocated_after: int | None = None
    counters: Counters = field(default_factory=Counters)
    changed_chunks: int = 0
    zeroed_bytes: int = 0  # data that was turned to zeros
    repaired_chunks: int = 0  # damaged ones that were given anew
    is_stamped: bool = False  # the mtime was set after the last write
    errors: str = ""  # the errnos that clients got, and how often: `EIO 1, ENOSPC 3`
    unusual: str = ""  # why it is
    ranges: bytes = b""  # the chunks that changed (`ranges.encode`)
    number: int = 0  # in the catalog; 0 if it is not known there yet

    @property
    def is_good(self) -> bool:
        """Whether it left a whole file, as far as can be known."""
        return self.ended in GOOD

    @property
    def is_incomplete(self) -> bool:
        """Whether it is over, and may have left a file unfinished."""
        return self.ended is not None and not self.is_good

    @property
    def changed_bytes(self) -> int:
        """How much of the file changed, at most: the chunks that did, or what was written to them
        and punched, if that is less.
        """
        count = self.counters
        stored = count.written_bytes + count.punched_bytes + count.discarded_bytes
        return min(self.changed_chunks * CHUNK_BYTES, stored + count.shared_bytes)

    @property
    def data_bytes(self) -> int:
        """How much data the file had, or has: the larger."""
        return max(self.allocated_before or 0, self.allocated_after or 0)

    @property
    def changed_share(self) -> float:
        """Which share of its data changed, from 0 to 1."""
        return min(1.0, self.changed_bytes / self.data_bytes) if self.data_bytes else 0.0

    @property
    def is_shrunk(self) -> bool:
        """Whether the file became smaller."""
        if self.size_after is None or self.size_before is None:
            return False
        return self.size_after < self.size_before

    def interrupted(self, end_ns: int) -> Session:
        """The session of a daemon that has died; `end_ns` is the last that is known of it."""
        return replace(self, ended=Ending.DAEMON_DIED, end_ns=max(end_ns, self.begin_ns))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; see the page on JSON."""
        return {
            "file": path_text(self.path),
            "written_as": None if self.written_as is None else path_text(self.written_as),
            "device": self.device,
            "inode": self.inode,
            "born": iso(self.born_ns or None),
            "begin": iso(self.begin_ns),
            "end": iso(self.end_ns),
            "ended": self.ended or "running",
            "incomplete": self.is_incomplete,
            "unusual": self.unusual or None,
            "program": self.program,
            "uid": self.uid,
            "size_before": self.size_before,
            "size_after": self.size_after,
            "allocated_before": self.allocated_before,
            "allocated_after": self.allocated_after,
            "changed_bytes": self.changed_bytes,
            "changed_chunks": self.changed_chunks,
            "changed_share": round(self.changed_share, 6),
            "zeroed_bytes": self.zeroed_bytes,
            "repaired_chunks": self.repaired_chunks,
            "stamped": self.is_stamped,
            "errors": _counted(self.errors),
            "counters": self.counters.as_dict(),
        }


def iso(time_ns: int | None) -> str | None:
    """A time as ISO 8601 has it, local with its zone, to the microsecond."""
    if time_ns is None:
        return None
    return datetime.datetime.fromtimestamp(time_ns / 1e9).astimezone().isoformat()


def _counted(errors: str) -> dict[str, int]:
    pairs = (one.partition(" ") for one in filter(None, errors.split(", ")))
    return {name: int(count) for name, _, count in pairs}
