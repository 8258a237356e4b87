"""What the commands say besides their results."""

from __future__ import annotations

import contextlib
import sys

from mirrorfs.backing.paths import printable


def note(text: str) -> None:
    """One line on stderr. That it cannot be written never changes how a command ends."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"mirrorfs: {printable(text)}", file=sys.stderr, flush=True)
