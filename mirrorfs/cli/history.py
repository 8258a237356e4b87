"""`mirrorfs history`: the sessions that were noted, the last one first."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, show
from mirrorfs.backing.sizes import duration, moment, share, size
from mirrorfs.catalog import ranges, sessions
from mirrorfs.cli import places, when
from mirrorfs.cli.output import note
from mirrorfs.daemon import overview, remembered
from mirrorfs.errors import ExitCode, MirrorfsError, UsageError
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    import argparse
    import sqlite3
    from collections.abc import Iterator

    from mirrorfs.catalog.session import Session
    from mirrorfs.daemon.remembered import Place

SCHEMA = 1
_ON_A_TERMINAL = 40
_HEADER = (
    f"{'BEGIN':21} {'TOOK':>7} {'SIZE':>8} {'RECEIVED':>8} {'WROTE':>8} {'CHANGED':>8}"
    f" {'ENDED':11} {'PROGRAM':10} FILE"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs history`."""
    parser.usage = "mirrorfs history [MOUNTPOINT | BACKING | FILE] [--since WHEN] [...]"
    parser.add_argument(
        "path",
        metavar="MOUNTPOINT | BACKING | FILE",
        nargs="?",
        help="default: every mirrorfs mount; a file or folder may be in a mount or below",
    )
    parser.add_argument(
        "--since",
        metavar="WHEN",
        help="only sessions that began then or later: 90m, 26h or 7d ago, or an ISO date",
    )
    parser.add_argument(
        "--incomplete", action="store_true", help="only those that left no whole file"
    )
    parser.add_argument("--limit", metavar="N", help="no more than the last N of each mount")
    parser.add_argument(
        "--ranges", action="store_true", help="with --json: what changed, in bytes of the file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    places.add_state(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the sessions; exit code 7 if nothing is remembered there, 9 if the catalog cannot be
    read. Of many places those that cannot be read are named on stderr.
    """
    if arguments.ranges and not arguments.json:
        raise UsageError("--ranges: what changed is shown with --json alone")
    limit = _limit(arguments.limit)
    now_ns = time.time_ns()
    since_ns = 0 if arguments.since is None else when.point(arguments.since, "--since", now_ns)
    meant = places.meant(arguments.path, arguments.state)
    code = ExitCode.DONE
    for place in meant:
        try:
            with remembered.opened(place) as db:
                if place.trouble:
                    note(place.trouble)
                if db is None:
                    note(f"{show(place.name)}: {remembered.why_nothing(place)}")
                    continue
                found = _selected(place, db, since_ns, arguments.incomplete)
                first = next(found, None)
                if first is None:
                    _check_name(place)
                    where = os.path.join(place.name, place.below) if place.below else place.name
                    note(f"{show(where)}: no such session")
                    continue
                found = itertools.chain([first], found)
                if arguments.json:
                    _print_json(place, itertools.islice(found, limit), arguments.ranges)
                else:
                    _print_table(place, found, limit, is_titled=len(meant) > 1)
        except MirrorfsError as exc:
            if len(meant) == 1:
                raise
            note(str(exc))
            code = max(code, exc.exit_code)
    return code


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if re.fullmatch("[1-9][0-9]{0,17}", text) is None:
        raise UsageError(f"--limit: '{text}' is no number of sessions; write 1 or more")
    return int(text)


def _selected(
    place: Place, db: sqlite3.Connection, since_ns: int, is_incomplete: bool
) -> Iterator[Session]:
    """The sessions that are meant, those that are under way first."""
    below = place.below
    for session in overview.under_way(place, db):
        is_meant = not below or (session.path + b"/").startswith(below + b"/")
        is_meant &= session.begin_ns >= since_ns
        if is_meant and (session.ended is not None or not is_incomplete):
            yield session
    for session in sessions.select(db, below, since_ns, is_incomplete):
        if session.ended is not None:
            yield session


def _check_name(place: Place) -> None:
    """MirrorfsError for a file without sessions that is not there either."""
    if place.below and place.root:
        path = os.path.join(place.root, place.below)
        if not os.path.lexists(path):
            raise MirrorfsError(f"{show(path)}: no such file, and no session of it was noted")


def _print_json(place: Place, found: Iterator[Session], with_ranges: bool) -> None:
    mount_point = None if place.mount is None else path_text(place.mount.path)
    for session in found:
        line: dict[str, Any] = {
            "schema": SCHEMA,
            "mount_point": mount_point,
            "backing": path_text(place.backing),
            **session.as_dict(),
        }
        if with_ranges:
            line["ranges"] = [
                [start * CHUNK_BYTES, end * CHUNK_BYTES]
                for start, end in ranges.decode(session.ranges)
            ]
        print(json.dumps(line))


def _print_table(
    place: Place, found: Iterator[Session], limit: int | None, is_titled: bool
) -> None:
    shown = limit
    if shown is None and sys.stdout is not None and sys.stdout.isatty():
        shown = _ON_A_TERMINAL
    if is_titled:
        print(f"{show(place.name)}:")
    print(_HEADER)
    for session in itertools.islice(found, shown):
        print(_line(session))
    if limit is None and shown is not None and next(found, None) is not None:
        print("and more: --limit N")


def _line(session: Session) -> str:
    count = session.counters
    took = "" if session.end_ns is None else duration(session.end_ns - session.begin_ns)
    ended = session.ended or "running"
    known = session.ended is not None
    after = size(session.size_after) if session.size_after is not None else "-"
    changed = share(session.changed_share) if known else "-"
    received = size(count.received_bytes) if known else "-"
    wrote = size(count.written_bytes) if known else "-"
    left_as = (
        f" (left as {show(os.path.basename(session.written_as))})"
        if (session.written_as is not None and known)
        else ""
    )
    unusual = f"  unusual: {session.unusual}" if session.unusual else ""
    return (
        f"{moment(session.begin_ns):21} {took:>7} {after:>8} {received:>8} {wrote:>8} {changed:>8}"
        f" {ended:11} {session.program or '-':10} {show(session.path)}{left_as}{unusual}"
    )
