"""The account: what became of every byte received, for the mount and for each file.

    received_bytes = written_bytes + unchanged_bytes + punched_bytes + hole_bytes + shared_bytes

`received_bytes` is counted where a request is answered, the others where a step is done; both reach
the totals in one locked update, so the equation holds at every instant a reader can look. Nothing
here survives the mount, so a crash leaves nothing.

Lock order: the lock here is the innermost; nothing is called while it is held.
"""

from __future__ import annotations

import errno as errno_names
import threading
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Device, inode number and birth time (`Status.key`).
FileKey = tuple[int, int, int]
# Of the files that were written, the latest are counted apart; the totals hold all.
MAX_FILES = 10_000


@dataclass(slots=True)
class Counters:
    """Counts in bytes (and requests), since a common start. See the account page of the
    documentation.
    """

    received_bytes: int = 0
    written_bytes: int = 0
    unchanged_bytes: int = 0
    punched_bytes: int = 0
    hole_bytes: int = 0
    shared_bytes: int = 0
    failed_bytes: int = 0
    discarded_bytes: int = 0
    write_requests: int = 0
    read_bytes: int = 0
    compared_bytes: int = 0
    trusted_bytes: int = 0
    freed_bytes: int = 0

    def add(self, other: Counters) -> None:
        """Add `other` to these. The caller holds the lock that guards these."""
        self.received_bytes += other.received_bytes
        self.written_bytes += other.written_bytes
        self.unchanged_bytes += other.unchanged_bytes
        self.punched_bytes += other.punched_bytes
        self.hole_bytes += other.hole_bytes
        self.shared_bytes += other.shared_bytes
        self.failed_bytes += other.failed_bytes
        self.discarded_bytes += other.discarded_bytes
        self.write_requests += other.write_requests
        self.read_bytes += other.read_bytes
        self.compared_bytes += other.compared_bytes
        self.trusted_bytes += other.trusted_bytes
        self.freed_bytes += other.freed_bytes

    def as_dict(self) -> dict[str, int]:
        """Name and value of each, in the order in which they are documented."""
        return {name: getattr(self, name) for name in NAMES}


NAMES = tuple(field.name for field in fields(Counters))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The account of the mount at one instant."""

    since_mount: dict[str, int]
    since_reset: dict[str, int]
    errors: dict[str, int]
    errors_since_reset: dict[str, int]


class Account:
    """All counters of one mount. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Counters()
        self._errors: dict[str, int] = {}
        self._reset_total = self._total.as_dict()
        self._reset_errors: dict[str, int] = {}
        self._files: OrderedDict[FileKey, Counters] = OrderedDict()

    def add(self, key: FileKey, delta: Counters, session: Counters) -> None:
        """Add `delta` to the mount's counters, to those of the file `key`, and to those of a
        session of it.
        """
        with self._lock:
            self._total.add(delta)
            session.add(delta)
            counters = self._files.get(key)
            if counters is None:
                counters = self._files[key] = Counters()
                if len(self._files) > MAX_FILES:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(key)
            counters.add(delta)

    def add_read(self, key: FileKey, count: int) -> None:
        """Count `count` bytes read by a client; a file that was never written gets no entry
        for it.
        """
        with self._lock:
            self._total.read_bytes += count
            counters = self._files.get(key)
            if counters is not None:
                counters.read_bytes += count

    def moved_bytes(self) -> int:
        """How many bytes clients have written and read since mount."""
        with self._lock:
            return self._total.received_bytes + self._total.read_bytes

    def add_error(self, code: int) -> None:
        """Count one request that was answered with the errno `code`."""
        name = errno_names.errorcode.get(code, str(code))
        with self._lock:
            self._errors[name] = self._errors.get(name, 0) + 1

    def drop(self, key: FileKey) -> None:
        """Forget a file that is no more, so that a later one with its number starts from
        nothing.
        """
        with self._lock:
            self._files.pop(key, None)

    def reset(self) -> None:
        """Start `since_reset` anew."""
        with self._lock:
            self._reset_total = self._total.as_dict()
            self._reset_errors = dict(self._errors)

    def snapshot(self) -> Snapshot:
        """The mount's counters, all of the same instant."""
        with self._lock:
            total, errors = self._total.as_dict(), dict(self._errors)
            base, base_errors = self._reset_total, self._reset_errors
        return Snapshot(
            total,
            {name: value - base[name] for name, value in total.items()},
            errors,
            {name: count - base_errors.get(name, 0) for name, count in errors.items()},
        )

    def file(self, key: FileKey) -> dict[str, int]:
        """The counters of the file `key`; zeros if nothing was written to it since mount."""
        with self._lock:
            return self._files.get(key, Counters()).as_dict()

    def files(self, name_of: Callable[[FileKey], str]) -> dict[str, dict[str, int]]:
        """The counters of each file by the name that `name_of` gives, the most recently written
        last.
        """
        with self._lock:
            copies = [(key, counters.as_dict()) for key, counters in self._files.items()]
        return {name_of(key): counters for key, counters in copies}
