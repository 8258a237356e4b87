"""Batons, with which two threads take turns: in C (baton.c), or, where that was not built, with
Python's locks, which does the same in twice the time and more.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

__all__ = ["Handoff", "pass_on"]


class _Handoff:
    """Not given yet. Giving it twice is as giving it once; one thread at a time waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def give(self) -> None:
        """Let whoever waits for it have it, now or later."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def take(self, seconds: float) -> bool:
        return self._lock.acquire(timeout=seconds)


def _pass_on(given: _Handoff | None, awaited: _Handoff, seconds: float) -> bool:
    """Give one baton, and wait for another: no longer than so many seconds, or, if they are -1,
    until it is there. Returns whether it is.
    """
    if given is not None:
        given.give()
    return awaited.take(seconds)


if TYPE_CHECKING:
    Handoff = _Handoff
    pass_on = _pass_on
else:
    try:
        from mirrorfs._baton import Baton as Handoff
        from mirrorfs._baton import pass_on
    except ImportError:
        Handoff, pass_on = _Handoff, _pass_on
