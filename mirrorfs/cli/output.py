"""What the commands say besides their results."""

from __future__ import annotations

import contextlib
import sys

from mirrorfs.backing.paths import printable


def note(text: str) -> None:
    """Print one line on stderr. Where that cannot be written, the command goes on all the same."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"mirrorfs: {printable(text)}", file=sys.stderr, flush=True)
