"""Spans and points of time, shares and sizes, as users type them. Pure."""

from __future__ import annotations

import datetime
import re

from mirrorfs.errors import UsageError

_SPAN = re.compile(r"(\d{1,9})([smhdw])")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%?")
_SIZE = re.compile(r"(\d{1,12})([kmgt]?)(?:i?b)?", re.IGNORECASE)
_MAX_NS = (1 << 63) - 1  # what SQLite holds
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def span(text: str, name: str) -> int:
    """A span of time in ns, as `26h`; `name` is what it was given for. Raises UsageError."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{name}: '{text}' is no span of time; write 90m, 26h or 7d")
    return int(match[1]) * _SECONDS[match[2]] * 10**9


def point(text: str, name: str, now_ns: int) -> int:
    """A point of time in ns since the epoch: a span before `now_ns`, or a date, with a time or
    without, as ISO 8601 has it, local where it names no zone. Raises UsageError.
    """
    if _SPAN.fullmatch(text.strip()):
        return now_ns - span(text, name)
    try:
        found = int(datetime.datetime.fromisoformat(text.strip()).timestamp()) * 10**9
        if abs(found) > _MAX_NS:
            raise OverflowError
        return found
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{name}: '{text}' is no time; write 7d, 26h, 2026-01-31 or 2026-01-31T02:30"
        ) from None


def share(text: str, name: str) -> float:
    """A share as a part of 1, as `40%`. Raises UsageError."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or float(match[1]) > 100:
        raise UsageError(f"{name}: '{text}' is no share; write a number from 0% to 100%")
    return float(match[1]) / 100


def size(text: str, name: str) -> int:
    """A number of bytes, as `50M`, in binary units; more than none. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise UsageError(f"{name}: '{text}' is no size; write 64k, 50M or 1G")
    return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")
