"""`mirrorfs stats`: the account of a mount, or of one file in it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from mirrorfs.cli import mounted
from mirrorfs.errors import ExitCode, NotAMountError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="MOUNTPOINT | FILE", nargs="?", help="default: every mirrorfs mount"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the counters; exit code 7 if there is no mirrorfs."""
    if arguments.path is None:
        return _all(arguments.json)
    path = os.path.realpath(os.fsencode(arguments.path))
    mount_point = mounted.mount_above(path)
    if path == mount_point:
        _print_mount(mount_point, mounted.read_stats(mount_point), arguments.json)
        return ExitCode.DONE
    try:
        counters = json.loads(os.getxattr(path, mounted.STATS_ATTRIBUTE))
    except FileNotFoundError:
        raise NotAMountError(f"{os.fsdecode(path)}: no such file") from None
    except OSError:
        raise NotAMountError(
            f"{os.fsdecode(path)}: only files and mount points have counters"
        ) from None
    if arguments.json:
        print(json.dumps({"schema": 1, "file": os.fsdecode(path), "counters": counters}))
    else:
        _print_table(os.fsdecode(path), counters, None)
    return ExitCode.DONE


def _all(as_json: bool) -> int:
    from mirrorfs.backing import mounts

    points = sorted({mount.path for mount in mounts.mirror_mounts()})
    if not points:
        raise NotAMountError(
            "no mirrorfs is mounted here; 'mirrorfs mount BACKING MOUNTPOINT' mounts one"
        )
    for point in points:
        _print_mount(point, mounted.read_stats(point), as_json)
    return ExitCode.DONE


def _print_mount(mount_point: bytes, stats: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"mount_point": os.fsdecode(mount_point), **stats}))
    else:
        title = f"{os.fsdecode(mount_point)}: {stats['backing']} ({stats['file_system']['type']})"
        _print_table(title, stats["counters"], stats["since_reset"])


def _print_table(title: str, counters: dict[str, Any], since_reset: dict[str, Any] | None) -> None:
    errors = counters.pop("errors", {})
    print(title)
    print(f"  {'':18}{'since mount':>32}" + (f"{'since reset':>32}" if since_reset else ""))
    for name, value in counters.items():
        row = f"  {name:18}{_amount(name, value):>32}"
        print(row + (_amount(name, since_reset[name]).rjust(32) if since_reset else ""))
    if errors:
        print("  errors: " + ", ".join(f"{name} {count}" for name, count in sorted(errors.items())))


def _amount(name: str, value: int) -> str:
    """A number with its thousands apart, and for bytes a size that can be read at a glance."""
    if not name.endswith("_bytes") or value < 1000:
        return f"{value:,}"
    size, unit = float(value), "B"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007 - the last one reached is used
        size /= 1000
        if size < 1000:
            break
    return f"{value:,} ({size:.1f} {unit})"
