"""What mounts and files do a second, from two readings of their counters. Nothing here asks a
mount.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Moved:
    """Counts in bytes: of a mount or a file, since mount."""

    received_bytes: int
    written_bytes: int
    read_bytes: int

    @classmethod
    def parse(cls, counters: dict[str, Any]) -> Moved:
        """From counters as the control files have them. Raises KeyError, TypeError or ValueError
        for what is none.
        """
        return cls(
            int(counters["received_bytes"]),
            int(counters["written_bytes"]),
            int(counters["read_bytes"]),
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of a mount at one instant, in seconds of time.monotonic. `daemon` differs where
    the counters have begun anew.
    """

    seconds: float
    daemon: tuple[int, float]  # its process, and when it has mounted
    moved: Moved
    errors: dict[str, int]  # since mount, by errno


@dataclass(frozen=True, slots=True)
class FilesReading:
    """The counters of the files of a mount, by name, at one instant."""

    seconds: float
    files: dict[str, Moved]


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second."""

    received: float
    written: float
    read: float

    @property
    def not_written(self) -> float | None:
        """Which part of what was received was not written; None where nothing was received."""
        if self.received <= 0:
            return None
        return max(0.0, 1 - self.written / self.received)


def of_mount(before: Reading | None, after: Reading | None) -> Rates | None:
    """The rates between two readings; None where there are no two of the same daemon."""
    if before is None or after is None or before.daemon != after.daemon:
        return None
    return _rates(before.moved, after.moved, after.seconds - before.seconds)


def errors(before: Reading | None, after: Reading | None) -> tuple[int, int]:
    """How many requests failed since mount, and how many of these between the readings."""
    count = 0 if after is None else sum(after.errors.values())
    if before is None or after is None or before.daemon != after.daemon:
        return count, 0
    return count, count - sum(before.errors.values())


def busiest(before: FilesReading, after: FilesReading) -> list[tuple[str, Rates]]:
    """The files that something was received for, or read from, between two readings: the busiest
    first, those that are alike by name.
    """
    seconds = after.seconds - before.seconds
    begun = before.files | _renamed(before.files, after.files)
    found = []
    for name, moved in after.files.items():
        rates = _rates(begun.get(name, _NOTHING), moved, seconds)
        if rates is not None and rates.received + rates.read > 0:
            found.append((name, rates))
    return sorted(found, key=_order)


def _renamed(before: dict[str, Moved], after: dict[str, Moved]) -> dict[str, Moved]:
    """What files with a new name may have had before under one that is gone: a copy that was given
    its final name would else seem to have come as a whole meanwhile. A new file takes the most that
    it can have had, so its rate is rather too low for one interval than far too high.
    """
    gone = sorted((before[name] for name in before.keys() - after.keys()), key=_received)
    new = sorted(((after[name], name) for name in after.keys() - before.keys()), key=_received_last)
    found = {}
    for moved, name in new:
        place = bisect.bisect_right(gone, moved.received_bytes, key=_received) - 1
        if place < 0:
            break
        old = gone[place]
        if old.written_bytes <= moved.written_bytes and old.read_bytes <= moved.read_bytes:
            found[name] = gone.pop(place)
    return found


def _received(moved: Moved) -> int:
    return moved.received_bytes


def _received_last(named: tuple[Moved, str]) -> tuple[int, str]:
    moved, name = named
    return -moved.received_bytes, name


def _order(found: tuple[str, Rates]) -> tuple[float, str]:
    name, rates = found
    return -(rates.received + rates.read), name


_NOTHING = Moved(0, 0, 0)


def _rates(before: Moved, after: Moved, seconds: float) -> Rates | None:
    """None where no time has passed, or the counters have begun anew."""
    differences = (
        after.received_bytes - before.received_bytes,
        after.written_bytes - before.written_bytes,
        after.read_bytes - before.read_bytes,
    )
    if seconds <= 0 or min(differences) < 0:
        return None
    received, written, read = (count / seconds for count in differences)
    return Rates(received, written, read)
