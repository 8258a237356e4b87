"""USR1 logs one line, USR2 the stacks of all threads: by a thread of its own, which answers even
while the main loop is stuck.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_SIGNALS = {signal.SIGUSR1, signal.SIGUSR2}


def block() -> None:
    """Let these signals wait for the thread; to be called before there are other threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def start(status_line: Callable[[], str]) -> None:
    """Start the thread, which logs `status_line()` at USR1."""

    def answer() -> None:
        # The others are the main thread's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            number = signal.sigwait(_SIGNALS)
            try:
                if number == signal.SIGUSR1:
                    log.info("%s", status_line())
                else:
                    _log_stacks()
            except Exception:  # without the turn, others go on changing the tables
                log.exception("the status could not be read; send the signal again")

    threading.Thread(target=answer, name="signals", daemon=True).start()


def _log_stacks() -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        log.info("stack of %s:\n%s", names.get(ident, ident), stack)
