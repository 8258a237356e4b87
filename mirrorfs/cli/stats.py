"""`mirrorfs stats`: the account of a mount, or of one file in it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, printable, show
from mirrorfs.backing.sizes import share, size
from mirrorfs.cli.output import note
from mirrorfs.daemon import mounted, timed_calls
from mirrorfs.errors import ExitCode, MirrorfsError, NotAMountError, PrivateError

if TYPE_CHECKING:
    import argparse

    from mirrorfs.backing.mounts import Mount

# What becomes of what was received, with the words for people; then what is counted beside it.
_CLASSES = {
    "written_bytes": "written",
    "unchanged_bytes": "unchanged",
    "punched_bytes": "punched",
    "hole_bytes": "hole",
    "shared_bytes": "shared",
}
_OTHERS = {
    "failed_bytes": "failed",
    "discarded_bytes": "discarded",
    "write_requests": "write requests",
    "read_bytes": "read",
    "compared_bytes": "compared",
    "trusted_bytes": "trusted",
    "freed_bytes": "freed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs stats`."""
    parser.add_argument(
        "path", metavar="MOUNTPOINT | FILE", nargs="?", help="default: every mirrorfs mount"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON for programs, with the exact numbers"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the counters; exit code 7 if there is no mirrorfs, 12 if one does not answer."""
    if arguments.path is None:
        return _all(arguments.json)
    path = timed_calls.resolve(os.fsencode(arguments.path))
    mount = mounted.above(path)
    if path == mount.path:
        _print_mount(mount, mounted.Statistics(mount).read(), arguments.json)
        return ExitCode.DONE
    counters = mounted.Statistics(mount, path).read()
    if arguments.json:
        print(json.dumps({"schema": 1, "file": path_text(path), "counters": counters}))
    else:
        _print_file(path, counters)
    return ExitCode.DONE


def _all(as_json: bool) -> int:
    """Print the counters of every mount that answers; the others are named on stderr, and the
    highest of their exit codes is returned. A mount that another user keeps to itself is no failure
    here.
    """
    found = [(mount, mounted.Statistics(mount)) for mount in mounted.every()]
    if not found:
        raise NotAMountError(
            "no mirrorfs is mounted here; 'mirrorfs mount BACKING MOUNTPOINT' mounts one"
        )
    code = ExitCode.DONE
    for mount, statistics in found:
        try:
            _print_mount(mount, statistics.read(), as_json)
        except MirrorfsError as exc:
            note(str(exc))
            if not isinstance(exc, PrivateError):
                code = max(code, exc.exit_code)
    return code


def _print_mount(mount: Mount, stats: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"mount_point": path_text(mount.path), **stats}))
        return
    try:
        title = f"{stats['backing']} ({stats['file_system']['type']})"
        columns = {"since mount": stats["counters"], "since reset": stats["since_reset"]}
        life = stats.get("life", {})  # an older version's mount does not tell
        lines = table(columns | ({"for life": life} if life else {}))
        lines += _of_digests(stats.get("digests"))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise mounted.unreadable(mount.path) from None
    print(printable(f"{show(mount.path)}: {title}"), *lines, sep="\n")
    if life is None:
        print("  Nothing is remembered between mounts, so there are no totals for life.")


def _print_file(path: bytes, counters: dict[str, Any]) -> None:
    try:
        lines = table({"since mount": counters})
    except (LookupError, TypeError, ValueError, AttributeError):
        raise mounted.unreadable(path) from None
    print(show(path), *lines, sep="\n")


def _of_digests(digests: dict[str, int] | None) -> list[str]:
    if not digests or not digests["chunks"]:
        return []
    known, chunks = digests["known_chunks"], digests["chunks"]
    part = share(known / chunks)
    return [f"  Digests are known of {known:,} of {chunks:,} chunks ({part})."]


def table(columns: dict[str, dict[str, Any]]) -> list[str]:
    """The lines about the counters in each column, of which the first one is since mount. Raises
    LookupError, TypeError, ValueError or AttributeError for what are none.
    """
    all_counters = list(columns.values())
    received = [int(counters["received_bytes"]) for counters in all_counters]
    lines = [_row("", [_cell(name) for name in columns])]
    lines += [_row("received", [_cell(size(count)) for count in received])]
    for name, words in _CLASSES.items():
        parts = [int(counters[name]) for counters in all_counters]
        cells = zip(parts, received, strict=True)
        lines += [_row(f"  {words}", [_cell(size(part), _share(part, of)) for part, of in cells])]
    for name, words in _OTHERS.items():
        counts = [int(counters[name]) for counters in all_counters]
        as_text = size if name.endswith("_bytes") else "{:,}".format
        lines += [_row(words, [_cell(as_text(count)) for count in counts])]
    if "errors" in all_counters[0]:  # a file has none of its own
        found = [counters.get("errors") for counters in all_counters]
        cells_of = ["" if one is None else f"{sum(one.values()):,}" for one in found]
        lines += [_row("errors", [_cell(text) for text in cells_of])]
        if found[0]:
            counts_by_name = [f"{name} {count:,}" for name, count in sorted(found[0].items())]
            lines += ["  Errors since mount: " + ", ".join(counts_by_name)]
    written = [int(counters["written_bytes"]) for counters in all_counters]
    for when, was_received, was_written in zip(columns, received, written, strict=True):
        if when != "since reset":
            lines += [f"  {_saved(when, was_received, was_written)}"]
    return lines


def _row(name: str, cells: list[str]) -> str:
    return f"  {name:15}{''.join(cells)}".rstrip()


def _cell(amount: str, part: str = "") -> str:
    return f"{amount:>12} {part:>8}"


def _share(part: int, of: int) -> str:
    return share(part / of) if of else ""


def _saved(when: str, received: int, written: int) -> str:
    """What was spared the disk, in words."""
    if not received:
        return f"Nothing was received {when}."
    saved = received - written
    return (
        f"Saved {when}: {size(saved)} of {size(received)} received ({share(saved / received)}) "
        "did not have to be written."
    )
