"""What doctor has found: a sentence and a command, in which names of the user's stand apart, so
that a report can be shown to strangers.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from mirrorfs.backing.paths import path_text, printable, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PATH = re.compile(r"/[^\s:;,)'\"]*")
_LEAST_NAME = 3  # shorter ones are part of too many words


class Level(StrEnum):
    """How bad it is: a problem loses copies, or will; what is slow costs time or space."""

    PROBLEM = "problem"
    SLOW = "slow"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names the kind, for programs. `{name}` in `text` and `command` stands for one of
    `names`: bytes are a path, text is what somebody else has worded. The command is empty where
    there is none to run.
    """

    level: Level
    check: str
    text: str
    command: str = ""
    names: Mapping[str, bytes | str] = field(default_factory=dict)


class Speller(Protocol):
    """How names are spelled."""

    def path(self, path: bytes) -> str:
        """A path, or the name of a file."""

    def words(self, text: str) -> str:
        """What somebody has worded, in which there may be names."""


class Plain:
    """As they are, for people; or, `exactly`, for programs."""

    def __init__(self, exactly: bool = False) -> None:
        self._path = path_text if exactly else show

    def path(self, path: bytes) -> str:
        return self._path(path)

    def words(self, text: str) -> str:
        return printable(text)


class Anonymous:
    """Each path by a number, the same wherever it stands; `names`, of hosts and users, are taken
    out of what somebody else has worded, and so are all paths.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._tokens: dict[str, str] = {}
        self._names = sorted({one for one in names if len(one) >= _LEAST_NAME}, key=len)[::-1]

    def path(self, path: bytes) -> str:
        return self._token(show(path))

    def words(self, text: str) -> str:
        text = printable(text)
        # Those with a space in them, too, where they are known.
        for known in sorted(self._tokens, key=len)[::-1]:
            text = text.replace(known, self._tokens[known])
        text = _PATH.sub(lambda match: self._token(match[0].rstrip(".")), text)
        for number, name in enumerate(self._names, 1):
            text = re.sub(rf"\b{re.escape(name)}\b", f"NAME{number}", text)
        return text

    def _token(self, text: str) -> str:
        return self._tokens.setdefault(text, f"PATH{len(self._tokens) + 1}")


def sentence(finding: Finding, spell: Speller) -> str:
    """The text with its names."""
    return finding.text.format_map(
        {
            name: spell.path(value) if isinstance(value, bytes) else spell.words(value)
            for name, value in finding.names.items()
        }
    )


def command(finding: Finding, spell: Speller) -> str:
    """The command with its names, for a shell."""
    return finding.command.format_map(
        {
            name: shlex.quote(spell.path(value) if isinstance(value, bytes) else spell.words(value))
            for name, value in finding.names.items()
        }
    )
