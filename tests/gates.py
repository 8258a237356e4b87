"""A shell for `mirrorfs verify -e` that runs the command here, and holds its answer until the test
says so: between the first bytes of it and the rest anything may happen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.commands import wait_for

if TYPE_CHECKING:
    from pathlib import Path

_SHELL = """#!/bin/sh
shift
sh -c "$1" | {{
    for line in $(seq {1}); do IFS= read -r text; printf '%s\\n' "$text"; done
    touch '{0}/began'
    while [ ! -e '{0}/go' ]; do sleep 0.02; done
    cat
}}
"""
CHUNK = 1 << 16
# More of them than fit into a pipe.
MANY = 8192


@dataclass(frozen=True)
class Gate:
    """`shell` is the program."""

    folder: Path

    @property
    def shell(self) -> Path:
        return self.folder / "shell"

    def wait(self) -> None:
        """Return when the first digests have come."""
        wait_for((self.folder / "began").exists)

    def open(self) -> None:
        """Let the rest come."""
        (self.folder / "go").touch()


def gate_in(folder: Path, lines: int = 2) -> Gate:
    """A gate that is closed after so many lines: the header, and that a file begins. Its files lie
    in `folder`, which is made.
    """
    folder.mkdir()
    gate = Gate(folder)
    gate.shell.write_text(_SHELL.format(folder, lines))
    gate.shell.chmod(0o755)
    return gate


def scattered(path: Path) -> Path:
    """A file that takes little space, but whose digests do not fit into a pipe: every second of its
    chunks holds a byte.
    """
    with path.open("wb") as file:
        for number in range(MANY):
            file.seek(2 * number * CHUNK)
            file.write(b"x")
        file.truncate(2 * MANY * CHUNK)
    return path
