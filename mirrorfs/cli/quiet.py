"""Imported first: Ctrl-C while the rest is imported ends the process without a traceback.

`main` takes over with `listen`.
"""

from __future__ import annotations

import signal


def listen() -> None:
    """Let Ctrl-C be a KeyboardInterrupt again, unless it was ignored from the start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
