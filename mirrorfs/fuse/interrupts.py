"""Long requests whose clients got a signal: FUSE_INTERRUPT (Documentation/filesystems/fuse.rst,
"Interrupting filesystem operations"). The client waits all the same, even if it was SIGKILL.
"""

from __future__ import annotations


class Interrupts:
    """By the number of the request. `is_interrupted` may be called in any thread."""

    def __init__(self) -> None:
        self._by_number: dict[int, bool] = {}

    def watch(self, number: int) -> None:
        """Note signals for this request from now on: they may come before its task runs."""
        self._by_number[number] = False

    def forget(self, number: int) -> None:
        """The end of a `watch`."""
        self._by_number.pop(number, None)

    def note(self, number: int) -> bool:
        """Note a signal; False if no such request is watched."""
        if number not in self._by_number:
            return False
        self._by_number[number] = True
        return True

    def is_interrupted(self, number: int) -> bool:
        """Whether a signal waits for this request."""
        return self._by_number.get(number, False)
