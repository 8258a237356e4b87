"""A path as text."""

from __future__ import annotations


def show(path: bytes) -> str:
    """For people, on one line: what is no UTF-8, or cannot be printed, as escapes."""
    return printable(path.decode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """The text on one line, with escapes for what cannot be printed."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def path_text(path: bytes) -> str:
    """For programs: as it is where it is UTF-8; else with each odd byte, and `%`, percent-encoded.

    So it can go into JSON, which knows Unicode alone.
    """
    try:
        return path.decode()
    except UnicodeDecodeError:
        text = path.decode("utf-8", "surrogateescape")
    return "".join(
        f"%{ord(char) & 0xFF:02X}" if char == "%" or "\udc80" <= char <= "\udcff" else char
        for char in text
    )
