"""A path as text."""

from __future__ import annotations


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
