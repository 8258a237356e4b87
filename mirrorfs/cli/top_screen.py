"""`mirrorfs top` on a terminal: the whole screen, until `q` or a signal.

Guarantees: the terminal is left as it was found, however this ends. Ctrl-Z gives it back meanwhile.
The size of the terminal is looked at, as no handler of SIGWINCH may be there: it would interrupt
the calls of child processes, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import time
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mirrorfs.backing.paths import printable, show
from mirrorfs.backing.sizes import share, size
from mirrorfs.cli.top_lines import free_text
from mirrorfs.daemon import rates
from mirrorfs.daemon.watched import LOOK_SECONDS
from mirrorfs.errors import NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import ConsoleOptions, RenderResult

    from mirrorfs.daemon.rates import Rates
    from mirrorfs.daemon.watched import Watch, Watched

_SUSPEND = b"\x1a"  # Ctrl-Z
_DRAW_SECONDS = 0.3
_KEY_BYTES = 1024
_NOTHING = "-"


def run(watch: Watch, interval: float, count: int | None) -> list[Watched]:
    """Show the mounts; returns an empty list at `q`, and the mounts after `count` intervals."""
    shown = _Shown(watch, interval, count)
    while True:
        with _keys() as keys, shown.screen():
            is_over = shown.until_key(keys)
        if is_over:
            return shown.there if is_over == "count" else []
        os.kill(0, signal.SIGTSTP)  # as the terminal would have done


class _Shown:
    """The display; `there` are the mounts on it."""

    def __init__(self, watch: Watch, interval: float, count: int | None) -> None:
        self.there: list[Watched] = []
        self._watch = watch
        self._interval = interval
        self._left = count
        self._due = time.monotonic()
        self._drawn = 0.0
        self._console = Console(file=sys.stdout, force_terminal=True)
        self._live: Live | None = None

    @contextlib.contextmanager
    def screen(self) -> Iterator[None]:
        """Take the whole screen meanwhile."""
        self._resize()
        with Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as self._live:
            yield

    def until_key(self, keys: list[int]) -> str:
        """Show until `q` ("q") or the last interval ("count"); empty for Ctrl-Z."""
        is_new = True
        while True:
            now = time.monotonic()
            if now >= self._due:
                if self._left == 0:
                    return "count"
                # The first interval ends with the second look.
                self._left = None if self._left is None else self._left - bool(self.there)
                self._due = max(self._due + self._interval, now)
                before, self.there = self.there, self._watch.ask_all()
                is_new |= before != self.there
            new, pressed = self._watch.wait(min(LOOK_SECONDS, self._due - now), keys)
            is_new |= bool(new)
            is_settled = all(one.is_settled() for one in self.there)
            is_due = is_settled or time.monotonic() >= self._drawn + _DRAW_SECONDS
            if self._resize() or (is_new and is_due):
                self._draw()
                is_new = False
            typed = _read_keys(keys) if pressed else b""
            if b"q" in typed or b"Q" in typed:
                return "q"
            if _SUSPEND in typed:
                return ""

    def _resize(self) -> bool:
        """Take over the size of the terminal; returns whether it is another one."""
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
        found = ConsoleDimensions(columns or 80, lines or 24)
        if found == self._console.size and self._live is not None:
            return False
        self._console.size = found
        return True

    def _draw(self) -> None:
        if self._live is None:
            return
        self._drawn = time.monotonic()
        head = Group(
            Text(f"mirrorfs top, every {self._interval:g} s; q ends it", style="dim"),
            Text(),
            _mounts_table(self.there),
            *_problems(self.there),
            Text(),
        )
        options = self._console.options.update(height=None)
        used = len(self._console.render_lines(head, options, pad=False))
        rows = max(0, self._console.size.height - used - 1)
        self._live.update(Group(head, *_files(self.there, rows)), refresh=True)


class _Path:
    """A path that loses its beginning where there is little room, with a remark behind it."""

    def __init__(self, path: str, remark: str = "", style: str = "") -> None:
        self._path = path
        self._remark = remark
        self._style = style

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(options.max_width, cell_len(self._path + self._remark)))

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - cell_len(self._remark)
        path = self._path
        if cell_len(path) > room:
            # One cell is for the sign; a character may take two.
            path = path[len(path) - max(0, room - 1) :] if room > 1 else ""
            while cell_len(path) >= room > 1:
                path = path[1:]
            path = "…" + path
        yield Text.assemble(path, (self._remark, self._style), no_wrap=True, overflow="crop")


def _table(*names: str) -> Table:
    """A table with a name on the left, and numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="bold")
    table.add_column(names[0], ratio=1, no_wrap=True, overflow="ellipsis")
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _mounts_table(there: list[Watched]) -> Table:
    table = _table("mount", "received", "written", "not written", "read", "errors", "free")
    for one in there:
        path = show(one.mount.path)
        if one.problem is not None:
            hangs = isinstance(one.problem, NoAnswerError)
            remark = (" not answering", "bold red") if hangs else (" not readable", "yellow")
            table.add_row(_Path(path, *remark), *[_NOTHING] * 6)
            continue
        count, new = rates.errors(*one.account)
        errors = Text(f"{count:,} (+{new:,})" if new else f"{count:,}", "bold red" if new else "")
        table.add_row(_Path(path), *_numbers(one.rates()), errors, free_text(one))
    return table


def _numbers(found: Rates | None) -> tuple[str, str, str, str]:
    if found is None:
        return (_NOTHING,) * 4
    kept = _NOTHING if found.not_written is None else share(found.not_written)
    return f"{size(found.received)}/s", f"{size(found.written)}/s", kept, f"{size(found.read)}/s"


def _problems(there: list[Watched]) -> list[Text]:
    """What is wrong, in words."""
    return [Text(printable(str(one.problem)), style="red") for one in there if one.problem]


def _files(there: list[Watched], rows: int) -> list[Table | Text]:
    """The busiest files of all mounts on `rows` lines, and which mounts do not list theirs."""
    notes: list[Table | Text] = [
        Text(f"{show(one.mount.path)}: {one.files_problem}", style="yellow", no_wrap=True)
        for one in there
        if one.files_problem and not one.problem
    ]
    found = [
        (each, name, one)
        for one in there
        if one.busy_files is not None and not one.problem
        for name, each in one.busy_files[:rows]
    ]
    if not found:
        return notes
    found.sort(key=lambda file: (-(file[0].received + file[0].read), file[1]))
    table = _table("file", "received", "written", "not written", "read")
    for each, name, one in found[: max(0, rows - len(notes))]:
        where = show(one.mount.path).rstrip("/") + "/" if len(there) > 1 else ""
        table.add_row(_Path(where + printable(name)), *_numbers(each))
    return [table, *notes]


@contextlib.contextmanager
def _keys() -> Iterator[list[int]]:
    """Let each key come at once, unseen. Yields the descriptor to read them from, if there is a
    terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    raw = termios.tcgetattr(fd)
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    raw[6][termios.VSUSP] = os.fpathconf(fd, "PC_VDISABLE").to_bytes(1, "little")
    try:
        termios.tcsetattr(fd, termios.TCSANOW, raw)
        yield [fd]
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


def _read_keys(keys: list[int]) -> bytes:
    """What was typed. A terminal that is gone is not read again."""
    try:
        typed = os.read(keys[0], _KEY_BYTES)
    except OSError:
        typed = b""
    if not typed:
        keys.clear()
    return typed
