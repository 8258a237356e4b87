"""Long requests whose clients got a signal: FUSE_INTERRUPT (Documentation/filesystems/fuse.rst,
"Interrupting filesystem operations"). The client waits all the same, even if it was SIGKILL.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interrupts:
    """By the number of the request. `is_interrupted` may be called in any thread."""

    def __init__(self) -> None:
        self._by_number: dict[int, bool] = {}

    @contextlib.contextmanager
    def watched(self, number: int) -> Iterator[None]:
        """While the block runs, signals for this request are noted."""
        self._by_number[number] = False
        try:
            yield
        finally:
            del self._by_number[number]

    def note(self, number: int) -> bool:
        """Note a signal; False if no such request is watched."""
        if number not in self._by_number:
            return False
        self._by_number[number] = True
        return True

    def is_interrupted(self, number: int) -> bool:
        """Whether a signal waits for this request."""
        return self._by_number.get(number, False)
