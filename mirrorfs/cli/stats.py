"""`mirrorfs stats`: the account of a mount, or of one file in it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, show
from mirrorfs.cli.output import note
from mirrorfs.daemon import mounted, timed_calls
from mirrorfs.errors import ExitCode, MirrorfsError, NotAMountError, PrivateError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs stats`."""
    parser.add_argument(
        "path", metavar="MOUNTPOINT | FILE", nargs="?", help="default: every mirrorfs mount"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the counters; exit code 7 if there is no mirrorfs, 12 if one does not answer."""
    if arguments.path is None:
        return _all(arguments.json)
    path = timed_calls.resolve(os.fsencode(arguments.path))
    mount = mounted.above(path)
    if path == mount.path:
        _print_mount(path, mounted.Statistics(mount).read(), arguments.json)
        return ExitCode.DONE
    counters = mounted.Statistics(mount, path).read()
    if arguments.json:
        print(json.dumps({"schema": 1, "file": path_text(path), "counters": counters}))
    else:
        _print_table(show(path), counters, None)
    return ExitCode.DONE


def _all(as_json: bool) -> int:
    """Print the counters of every mount that answers; the others are named on stderr, and the
    highest of their exit codes is returned. A mount that another user keeps to itself is no failure
    here.
    """
    found = [(mount.path, mounted.Statistics(mount)) for mount in mounted.every()]
    if not found:
        raise NotAMountError(
            "no mirrorfs is mounted here; 'mirrorfs mount BACKING MOUNTPOINT' mounts one"
        )
    code = ExitCode.DONE
    for path, statistics in found:
        try:
            _print_mount(path, statistics.read(), as_json)
        except MirrorfsError as exc:
            note(str(exc))
            if not isinstance(exc, PrivateError):
                code = max(code, exc.exit_code)
    return code


def _print_mount(mount_point: bytes, stats: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"mount_point": path_text(mount_point), **stats}))
    else:
        title = f"{show(mount_point)}: {stats['backing']} ({stats['file_system']['type']})"
        _print_table(title, stats["counters"], stats["since_reset"])


def _print_table(title: str, counters: dict[str, Any], since_reset: dict[str, Any] | None) -> None:
    errors = counters.pop("errors", {})
    print(title)
    print(f"  {'':18}{'since mount':>32}" + (f"{'since reset':>32}" if since_reset else ""))
    for name, value in counters.items():
        row = f"  {name:18} {_amount(name, value):>31}"
        print(row + (f" {_amount(name, since_reset[name]):>31}" if since_reset else ""))
    if errors:
        print("  errors: " + ", ".join(f"{name} {count}" for name, count in sorted(errors.items())))


def _amount(name: str, value: int) -> str:
    """A number with its thousands apart, and for bytes a size that can be read at a glance."""
    if not name.endswith("_bytes") or value < 1000:
        return f"{value:,}"
    size, unit = float(value), "B"
    for unit in ("kB", "MB", "GB", "TB", "PB", "EB"):  # noqa: B007 - the last one reached is used
        size /= 1000
        if size < 1000:
            break
    return f"{value:,} ({size:.1f} {unit})"
