"""How far it is, on a terminal, once it takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as Bar

_PATIENCE_SECONDS = 2.0


class Progress:
    """`done` says what is done with the bytes."""

    def __init__(self, done: str) -> None:
        self._word = done
        self._is_wanted = sys.stderr is not None and sys.stderr.isatty()
        self._due = time.monotonic() + _PATIENCE_SECONDS
        self._bar: Bar | None = None
        self._done = self._total = 0
        self._is_folder = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.pause()

    def expect(self, total: int) -> None:
        """Say how many bytes all files have."""
        self._total, self._is_folder = total, True

    def tell(self, more: int, of: int) -> None:
        """Note that `more` bytes are done, in a file that has `of`."""
        self._done += more
        if not self._is_folder:
            self._total = of
        if self._is_wanted and time.monotonic() >= self._due:
            self._show()

    def _show(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

            self._bar = Progress(
                self._word,
                BarColumn(),
                DownloadColumn(binary_units=True),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
            self._bar.add_task("", total=self._total)
        self._due = time.monotonic() + 0.2
        self._bar.update(self._bar.task_ids[0], completed=self._done, total=self._total)
        self._bar.refresh()

    def pause(self) -> None:
        """Take it off the screen; it comes again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
