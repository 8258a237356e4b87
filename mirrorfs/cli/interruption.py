"""Signals during work that must be cleaned up after.

Guaranteed: at most one signal ends the work, and none comes between the work and what cleans up.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Takes the place of the handlers of all signals that end a command, for good.

    While `held` is true a signal is only remembered. It is set by assignment alone: Python looks at
    signals when something is called, so a call could be too late.
    """

    def __init__(self) -> None:
        self.held = True
        self.number: int | None = None
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
                signal.signal(number, self._come)

    def _come(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            return
        self.number = number
        if not self.held:
            self._end()

    def check(self) -> None:
        """End now, if a signal came while they were held."""
        if self.number is not None:
            self._end()

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Hold signals for one step that is not to be torn."""
        self.held = True
        yield
        self.held = False
        self.check()

    def _end(self) -> None:
        # Not KeyboardInterrupt: the interpreter may then end by SIGINT, whatever main returns.
        raise SystemExit(128 + (self.number or 0))
