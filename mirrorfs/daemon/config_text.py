"""The text of a configuration file (TOML 1.0): its tables, and the line of each of them and of each
key, which tomllib does not tell.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from mirrorfs.errors import ConfigFileError

# Where a table or key stands: its names from the top.
KeyPath = tuple[str, ...]
_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


def read(name: str, content: bytes) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The tables of the file called `name`, and the lines of all tables and keys, from 1 on.

    Raises ConfigFileError with the line for what is no TOML.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigFileError(f"{name}: line {line}: not UTF-8") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigFileError(f"{name}: {_with_line(str(exc), text)}") from None
    except RecursionError:
        raise ConfigFileError(f"{name}: no TOML: nested too deeply") from None
    return tables, _lines(text)


def _with_line(message: str, text: str) -> str:
    found = _PLACE.search(message)
    line = int(found[1]) if found else text.count("\n") + (not text.endswith("\n"))
    what = _PLACE.sub("", message).replace(" (at end of document)", "")
    return f"line {max(1, line)}: no TOML: {what[:1].lower()}{what[1:]}"


def _lines(text: str) -> dict[KeyPath, int]:
    """Where each key and table begins. A statement is what can be parsed for itself: one line, or
    as many as its brackets and quotes need.
    """
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    statement, begin = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        is_header = statement.lstrip().startswith("[")
        if is_header:
            table = ()
        for path in _paths(content):
            if is_header:
                table = path
            found.setdefault(path if is_header else table + path, begin)
        statement, begin = "", number + 1
    return found


def _paths(content: dict[str, Any], above: KeyPath = ()) -> list[KeyPath]:
    """All names in a table, each after the one it lies in."""
    found: list[KeyPath] = []
    for name, value in content.items():
        path = (*above, name)
        found.append(path)
        if isinstance(value, dict):
            found += _paths(value, path)
    return found
