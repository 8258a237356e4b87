"""A command on a terminal of its own, as a user has it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from typing import TYPE_CHECKING, Any

from tests.commands import MIRRORFS, spelled, wait_for

if TYPE_CHECKING:
    import signal
    from types import TracebackType

ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
SHOW_CURSOR = "\x1b[?25h"
_STYLE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")


class Terminal:
    """Runs `command` on it. `text` is all that it was sent."""

    def __init__(self, *command: object, lines: int = 20, columns: int = 100, **env: str) -> None:
        self._user, self._command = pty.openpty()
        self.resize(lines, columns)
        self.attributes_before = self.attributes()
        self._sent = b""
        surroundings = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *spelled(command)],
            stdin=self._command,
            stdout=self._command,
            stderr=self._command,
            env={**surroundings, "TERM": "xterm-256color", **env},
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._user)
        os.close(self._command)

    def resize(self, lines: int, columns: int) -> None:
        """What a window does; the kernel sends SIGWINCH."""
        fcntl.ioctl(self._user, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def attributes(self) -> list[Any]:
        """Echo, line mode, keys that send signals."""
        return termios.tcgetattr(self._command)

    def type(self, keys: bytes) -> None:
        os.write(self._user, keys)

    @property
    def text(self) -> str:
        while select.select([self._user], [], [], 0)[0]:
            self._sent += os.read(self._user, 1 << 16)
        return self._sent.decode(errors="replace")

    def frames(self) -> list[list[str]]:
        """What the screen has shown, without styles: the lines of each drawing of it."""
        _, _, rest = self.text.partition(ENTER_SCREEN)
        screens = rest.partition(LEAVE_SCREEN)[0].split("\x1b[H")[1:]
        return [_STYLE.sub("", screen).replace("\r", "").split("\n") for screen in screens]

    def shows(self, *words: str) -> bool:
        """Whether the screen showed these words at once, lately."""
        return any(all(word in "\n".join(frame) for word in words) for frame in self.frames()[-2:])

    def wait_until_it_shows(self, *words: str) -> None:
        wait_for(lambda: self.shows(*words), 20)

    def end(self) -> int:
        """The exit code; the process has to end by itself."""

        def is_over() -> bool:
            _ = self.text  # what nobody reads holds up the command
            return self.process.poll() is not None

        wait_for(is_over)
        return self.process.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def mirrorfs_on_a_terminal(*words: object, **kwargs: Any) -> Terminal:
    """The command of the user."""
    return Terminal(*MIRRORFS, *words, **kwargs)
