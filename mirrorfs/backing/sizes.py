"""Numbers as text for people."""

from __future__ import annotations

import functools
import time

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_SECONDS_SHOWN, _MINUTES_SHOWN = 600, 100
_HOURS_SHOWN = 96  # longer ago is told in days


def size(count: float) -> str:
    """A number of bytes in binary units, with three digits."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    value, unit = float(count), "B"
    for unit in _UNITS:  # noqa: B007 - the last one reached is used
        value /= 1024
        if abs(value) < 999.5:
            break
    digits = sum(abs(value) < bound for bound in (0.9995, 9.995, 99.95))
    return f"{value:.{digits}f} {unit}"


def duration(span_ns: int) -> str:
    """A span of time in ns, with two or three digits."""
    seconds = max(0, span_ns) / 1e9
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < _SECONDS_SHOWN:
        return f"{seconds:.0f} s"
    if seconds < _MINUTES_SHOWN * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    hours = seconds / _HOUR
    if hours < 9.95:
        # Not `7.0`, which nobody says.
        return f"{hours:.1f}".removesuffix(".0") + " h"
    return f"{hours:.0f} h" if hours < _HOURS_SHOWN else f"{seconds / _DAY:.0f} d"


def share(part: float) -> str:
    """A part of 1 in percent."""
    percent = part * 100
    if percent == 0 or percent >= 10:
        return f"{percent:.0f} %"
    return "< 0.01 %" if percent < 0.01 else f"{percent:.2g} %"


def moment(time_ns: int) -> str:
    """A time in ns since the epoch, local with its zone, to the minute."""
    return _minute(time_ns // (_MINUTE * 10**9))


@functools.lru_cache(maxsize=1024)
def _minute(minutes: int) -> str:
    # Of the files of one night there are many, and few minutes.
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(minutes * _MINUTE))
