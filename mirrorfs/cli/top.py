"""`mirrorfs top`: what the mounts do now."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys

from mirrorfs.cli.top_lines import print_lines
from mirrorfs.daemon import mounted, watched
from mirrorfs.errors import ExitCode, NoAnswerError, NotAMountError

_MIN_SECONDS, _MAX_SECONDS = 0.1, 3600.0
_UNABLE_TERMINALS = {"", "dumb", "unknown"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs top`."""
    parser.add_argument(
        "mount_points", metavar="MOUNTPOINT", nargs="*", help="default: every mirrorfs mount"
    )
    parser.add_argument(
        "--interval", metavar="SECONDS", type=_seconds, default=1.0, help="default: 1"
    )
    parser.add_argument("--count", metavar="N", type=_count, help="end after N intervals")
    parser.add_argument(
        "--json", action="store_true", help="print JSON for programs, one object a line"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the mounts until the user ends it. Exit code 7 if there is no mirrorfs, or none any
    more; with `--count`, 12 if one did not answer in the end.
    """
    points = [mounted.at(point).path for point in arguments.mount_points]
    on_screen = sys.stdout is not None and sys.stdout.isatty() and not arguments.json
    on_screen = on_screen and os.environ.get("TERM", "") not in _UNABLE_TERMINALS
    with contextlib.closing(watched.Watch(points, on_screen or arguments.json)) as watch:
        if not watch.look():
            raise NotAMountError(
                "no mirrorfs is mounted here; 'mirrorfs mount BACKING MOUNTPOINT' mounts one"
            )
        if on_screen:
            from mirrorfs.cli import top_screen

            there = top_screen.run(watch, arguments.interval, arguments.count)
        else:
            there = print_lines(watch, arguments.interval, arguments.count, arguments.json)
    hangs = any(isinstance(one.problem, NoAnswerError) for one in there)
    return ExitCode.NO_ANSWER if hangs else ExitCode.DONE


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _MIN_SECONDS <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no number of seconds from {_MIN_SECONDS} to {_MAX_SECONDS:.0f}"
        )
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return int(text)
