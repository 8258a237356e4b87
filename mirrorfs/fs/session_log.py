"""The lines in the log about sessions: one for each, and one for many where many end at once."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.backing.sizes import duration, size
from mirrorfs.mirror.counters import Counters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.catalog.session import Session

log = logging.getLogger(__name__)

# So many lines may come in so many seconds; of the sessions beyond, those that went well are summed
# up in one.
_LINES = 100
_SECONDS = 60.0


class SessionLog:
    """Used by one thread."""

    def __init__(self) -> None:
        self._left = _LINES
        self._since = time.monotonic()

    def say(self, over: Iterable[Session]) -> None:
        """Log the sessions that are over."""
        if time.monotonic() - self._since >= _SECONDS:
            self._left, self._since = _LINES, time.monotonic()
        summed, count = Counters(), 0
        for session in over:
            if self._left > 0 or session.unusual or not session.is_good:
                self._left -= 1
                _say_one(session)
            else:
                summed.add(session.counters)
                count += 1
        if count:
            log.info(
                "%d more files: received %s, wrote %s",
                count, size(summed.received_bytes), size(summed.written_bytes),
            )  # fmt: skip

    @staticmethod
    def say_found(session: Session) -> None:
        """Log a session that was cut off when a daemon died."""
        log.info("%s: was being written when the last daemon died", show(session.path))


def _say_one(session: Session) -> None:
    log.info("%s", summary(session))
    if session.repaired_chunks:
        count = session.repaired_chunks
        log.info("%s: %d damaged chunks are written anew", show(session.path), count)
    if session.unusual:
        log.warning("%s: unusual: %s", show(session.path), session.unusual)


def summary(session: Session) -> str:
    """The session in one line."""
    count, chunks = session.counters, session.changed_chunks
    end = session.end_ns if session.end_ns is not None else session.begin_ns
    named = f"{show(session.path)} {size(session.size_after or 0)}"
    how = "" if session.ended == "closed" else f", {session.ended}"
    return (
        f"{named}: received {size(count.received_bytes)}, wrote {size(count.written_bytes)} in "
        f"{chunks} {'chunk' if chunks == 1 else 'chunks'}, {duration(end - session.begin_ns)}"
        f" ({session.program or 'unknown'}{how})"
    )
