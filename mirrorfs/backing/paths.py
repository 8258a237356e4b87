"""A path as text, and whether it is one that a user means."""

from __future__ import annotations

import fnmatch
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def show(path: bytes) -> str:
    """The path for people, on one line: what is no UTF-8, or cannot be printed, as escapes."""
    return printable(path.decode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """The text on one line, with escapes for what cannot be printed."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def path_text(path: bytes) -> str:
    """The path for programs: as it is where it is UTF-8; otherwise with `%` and each byte that is
    none percent-encoded. JSON can hold it, which knows Unicode alone.
    """
    try:
        return path.decode()
    except UnicodeDecodeError:
        text = path.decode("utf-8", "surrogateescape")
    return "".join(
        f"%{ord(char) & 0xFF:02X}" if char == "%" or "\udc80" <= char <= "\udcff" else char
        for char in text
    )


def matches(path: bytes, globs: Iterable[bytes]) -> bool:
    """Whether the path, or the last name in it, matches one of the patterns (glob(7), but that `*`
    matches `/`, too). Letters count as they are seen, however many bytes they have.
    """
    whole = os.fsdecode(path)
    name = whole.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase(whole, glob) or fnmatch.fnmatchcase(name, glob)
        for glob in map(os.fsdecode, globs)
    )
