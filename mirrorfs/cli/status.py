"""`mirrorfs status`: the page that is looked at every morning."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, printable, show
from mirrorfs.backing.sizes import duration, moment, share, size
from mirrorfs.catalog.session import iso
from mirrorfs.catalog.standing import coverage
from mirrorfs.cli import places
from mirrorfs.cli.output import note
from mirrorfs.daemon import remembered
from mirrorfs.errors import ExitCode, MirrorfsError
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirrorfs.catalog.judgement import Found
    from mirrorfs.daemon.overview import Overview, Space

SCHEMA = 1
_ON_A_TERMINAL = 20
_COLUMNS = ("FILE", "LAST GOOD", "AGE", "SIZE", "ALLOCATED", "CHANGED", "STATE")
_TO_THE_RIGHT = {"AGE", "SIZE", "ALLOCATED", "CHANGED"}
_PINNED = (
    "used by btrfs, but by no file: metadata, and overwritten or punched parts of extents, which "
    "btrfs keeps until all of an extent is gone ('btrfs filesystem defragment' frees them)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs status`."""
    parser.usage = "mirrorfs status [MOUNTPOINT | BACKING] [--all] [--json] [--state DIR]"
    parser.add_argument(
        "place",
        metavar="MOUNTPOINT | BACKING",
        nargs="?",
        help="default: every mirrorfs mount; a backing folder need not be mounted",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"also on a terminal more than {_ON_A_TERMINAL} files",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    places.add_state(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print how the files of each place stand; exit code 1 if one is incomplete, unusual, gone or
    was never copied, or a mount does not answer. Of many places those that cannot be looked at are
    named on stderr, and the highest of their exit codes is returned.
    """
    meant = places.whole(places.meant(arguments.place, arguments.state), "mirrorfs status")
    code = ExitCode.DONE
    for number, place in enumerate(meant):
        if number and not arguments.json:
            print()
        try:
            found = places.look(place)
        except MirrorfsError as exc:
            if len(meant) == 1:
                raise
            note(str(exc))
            code = max(code, exc.exit_code)
            continue
        if arguments.json:
            print(json.dumps(_as_dict(found)))
        else:
            _print(found, arguments.all)
        if place.trouble or any(one.is_in_trouble for one in found.files if one.is_listed):
            code = max(code, ExitCode.FAILED)
    return code


def _smaller(found: Overview) -> list[Found]:
    return [one for one in found.files if not one.is_listed and not one.is_gone]


def _print(found: Overview, is_all: bool) -> None:
    place = found.place
    how = f": {show(place.backing)}" if place.mount is not None else ": not mounted"
    print(show(place.name) + how)
    space = [] if found.space is None else _of_space(found.space)
    for line in [*_notes(found), *space, *_of_scrubs(found)]:
        print(f"  {line}")
    listed = [one for one in found.files if one.is_listed]
    shown = listed
    if not is_all and sys.stdout is not None and sys.stdout.isatty():
        shown = listed[:_ON_A_TERMINAL]
    if shown:
        print()
        for line in _table(_COLUMNS, [_cells(one, found.now_ns) for one in shown]):
            print(f"  {line}")
    if len(shown) < len(listed):
        print(f"  and {len(listed) - len(shown)} more: --all")
    smaller = _smaller(found)
    if smaller:
        print(f"  {_summed_up(smaller)}")


def _notes(found: Overview) -> list[str]:
    place = found.place
    notes = [place.trouble] if place.trouble else []
    if not found.is_remembered:
        notes.append(remembered.why_nothing(place))
    elif not place.is_noted:
        notes.append(f"{remembered.why_nothing(place)}; this is what earlier mounts have noted")
    if found.space is None:
        notes.append("the backing folder is mounted over itself, and cannot be looked at")
    covered = coverage(one.standing for one in found.files)
    if covered.chunks:
        part = share(covered.known_chunks / covered.chunks)
        notes.append(f"digests known of {part} of {size(covered.chunks * CHUNK_BYTES)}")
    if found.unread:
        notes.append(f"{found.unread} folders could not be looked into; run this as root")
    return notes


def _of_scrubs(found: Overview) -> list[str]:
    if found.scrubbed_ns is None:
        return []
    since = duration(found.now_ns - found.scrubbed_ns)
    damaged = sum(one.standing.damaged_chunks > 0 for one in found.files if not one.is_gone)
    what = "nothing is damaged" if not damaged else f"damaged files: {damaged:,}"
    return [f"last scrubbed {moment(found.scrubbed_ns)}, {since} ago: {what}"]


def _of_space(space: Space) -> list[str]:
    files = space.files
    lines = [
        f"free {size(space.free)} of {size(space.total)}; "
        f"files {size(files.size)}, allocated {size(files.allocated)}"
    ]
    if space.missing:
        end = f"{size(space.short)} short" if space.short else "enough"
        lines.append(
            f"if all files fill up: {size(space.missing)} more are needed, "
            f"{size(space.free)} are free: {end}"
        )
    if space.pinned is not None:
        lines.append(f"pinned {size(space.pinned)}: {_PINNED}")
    return lines


def _cells(found: Found, now_ns: int) -> tuple[str, ...]:
    one = found.standing
    changed = "-" if not one.ending else "new" if found.is_new else share(one.changed_share)
    return (
        show(one.path),
        "-" if one.good_ns is None else moment(one.good_ns),
        "-" if one.good_ns is None else duration(now_ns - one.good_ns),
        size(one.size),
        size(one.allocated),
        changed,
        _state(found, now_ns),
    )


def _state(found: Found, now_ns: int) -> str:
    """The state, and what is to be known besides."""
    one = found.standing
    since = duration(now_ns - one.last_ns)
    text: str = one.state
    if one.is_incomplete and not found.is_running:
        text = f"{text}: {one.ending} {since} ago ({one.program or 'unknown'})"
    parts = [text]
    if one.damaged_chunks:
        parts.insert(0, f"damaged: {one.damaged_chunks:,} of its chunks of 64 KiB")
    if found.is_running:
        parts.append(f"running for {since} ({one.program or 'unknown'})")
    if found.left_as is not None and not found.is_running:
        parts.append(f"left as {show(os.path.basename(found.left_as))}")
    if found.is_gone:
        parts.append("gone")
    if one.unusual:
        parts.append(f"unusual: {printable(one.unusual)}")
    return "; ".join(parts)


def _summed_up(smaller: Sequence[Found]) -> str:
    count = len(smaller)
    total = size(sum(one.standing.size for one in smaller))
    good = [one.standing.good_ns for one in smaller if one.standing.good_ns is not None]
    last = f", the last one good {moment(max(good))}" if good else ""
    return f"{count:,} smaller {'file' if count == 1 else 'files'}: {total}{last}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if name in _TO_THE_RIGHT else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
        for row in [header, *rows]
    ]


def _as_dict(found: Overview) -> dict[str, Any]:
    """For JSON; see the page on JSON."""
    place, smaller = found.place, _smaller(found)
    good = [one.standing.good_ns for one in smaller if one.standing.good_ns is not None]
    return {
        "schema": SCHEMA,
        "mount_point": None if place.mount is None else path_text(place.mount.path),
        "backing": path_text(place.backing),
        "state_folder": path_text(place.state_folder),
        "time": iso(found.now_ns),
        "trouble": place.trouble or None,
        "remembered": found.is_remembered,
        "noted": place.is_noted,
        "unread_folders": found.unread,
        "last_scrub": iso(found.scrubbed_ns),
        "space": None if found.space is None else _space_dict(found.space),
        "files": [_file_dict(one, found.now_ns) for one in found.files if one.is_listed],
        "smaller": {
            "count": len(smaller),
            "size": sum(one.standing.size for one in smaller),
            "allocated": sum(one.standing.allocated for one in smaller),
            "last_good": iso(max(good, default=None)),
        },
    }


def _space_dict(space: Space) -> dict[str, Any]:
    return {
        "total_bytes": space.total,
        "free_bytes": space.free,
        "used_bytes": space.used,
        "size_bytes": space.files.size,
        "allocated_bytes": space.files.allocated,
        "missing_bytes": space.missing,
        "short_bytes": space.short,
        "pinned_bytes": space.pinned,
    }


def _file_dict(found: Found, now_ns: int) -> dict[str, Any]:
    one = found.standing
    return {
        "file": path_text(one.path),
        "state": one.state,
        "last_good": iso(one.good_ns),
        "age_seconds": None if one.good_ns is None else (now_ns - one.good_ns) / 1e9,
        "last": iso(one.last_ns) if one.ending else None,
        "ended": one.ending or None,
        "incomplete": one.is_incomplete,
        "unusual": one.unusual or None,
        "gone": found.is_gone,
        "left_as": None if found.left_as is None else path_text(found.left_as),
        "new": found.is_new,
        "program": one.program if one.ending else None,
        "size": one.size,
        "allocated": one.allocated,
        "changed_share": round(one.changed_share, 6),
        "damaged_chunks": one.damaged_chunks,
        "known_chunks": one.known_chunks,
    }
