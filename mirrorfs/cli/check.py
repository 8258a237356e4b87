"""`mirrorfs check`: a monitoring plugin, which prints one line with figures for graphs.

The line and the exit codes are those of the Monitoring Plugins Development Guidelines.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import printable, show
from mirrorfs.backing.sizes import duration, share
from mirrorfs.catalog import judgement
from mirrorfs.catalog.judgement import Limits, Problem, Severity
from mirrorfs.cli import places, when
from mirrorfs.daemon import remembered
from mirrorfs.errors import MirrorfsError

if TYPE_CHECKING:
    import argparse

    from mirrorfs.daemon.overview import Overview

UNKNOWN = int(Severity.UNKNOWN)
_DEFAULT_AGE = "26h"
_EPILOG = """\
exit codes:
  0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (could not be judged; also wrong words)

critical: the last copy is incomplete, there was never a good one, or it is too
old; a scrub has found it damaged; the mount is dead or hangs. Judged are files
of 1 MiB or more, and smaller ones that are incomplete; with --match those that
match, of any size.
warning: the last session was unusual, a file is gone, or changed too much.

examples:
  mirrorfs check /mnt/mirror --match '*.img' --older-than 26h
  mirrorfs check --changed-above 40% --free-below 10%
  mirrorfs check > /tmp/check || mail -s backup root < /tmp/check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs check`."""
    parser.epilog = _EPILOG
    parser.usage = "mirrorfs check [MOUNTPOINT | BACKING] [--older-than SPAN] [...]"
    parser.add_argument(
        "place", metavar="MOUNTPOINT | BACKING", nargs="?", help="default: every mirrorfs mount"
    )
    parser.add_argument(
        "--older-than",
        metavar="SPAN",
        default=_DEFAULT_AGE,
        help=f"how old a good copy may be, as 90m, 26h or 7d [{_DEFAULT_AGE}]",
    )
    parser.add_argument(
        "--match",
        metavar="GLOB",
        help="judge the files with such a name, or such a path if it has a '/'",
    )
    parser.add_argument(
        "--changed-above", metavar="SHARE", help="warn if more of a file has changed, as 40%%"
    )
    parser.add_argument(
        "--free-below",
        metavar="SHARE",
        help="warn if less is free, as 10%%; less than half of that is critical",
    )
    parser.add_argument(
        "--max-scrub-age",
        metavar="SPAN",
        help="warn if the last complete scrub is longer ago, as 35d, or there was none",
    )
    places.add_state(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the line; the exit code is a `Severity`."""
    limits = _limits(arguments)
    scrub = arguments.max_scrub_age
    scrub_ns = None if scrub is None else when.span(scrub, "--max-scrub-age")
    meant = places.whole(places.meant(arguments.place, arguments.state), "mirrorfs check")
    problems: list[Problem] = []
    seen: list[Overview] = []
    for place in meant:
        prefix = os.path.join(place.name, b"") if len(meant) > 1 else b""
        if place.trouble:
            problems.append(Problem(Severity.CRITICAL, float("inf"), place.trouble))
        try:
            found = places.look(place)
        except MirrorfsError as exc:
            if str(exc) == place.trouble:
                continue
            problems.append(Problem(Severity.UNKNOWN, 0, str(exc)))
            continue
        seen.append(found)
        problems += _judge(found, limits, prefix)
        name = show(place.name)
        problems += judgement.last_scrub(found.scrubbed_ns, found.now_ns, scrub_ns, name)
    if limits.match and seen and not _judged(seen, limits):
        text = f"no file matches '{show(limits.match)}'"
        problems.append(Problem(Severity.UNKNOWN, 0, text))
    severity = judgement.worst(problems)
    text = judgement.sentence(problems) or _all_well(seen, limits)
    _print(severity, text, _figures(seen, limits))
    return int(severity)


def say_unknown(text: str) -> None:
    """Print the line of what could not be judged at all."""
    _print(Severity.UNKNOWN, text, [])


def _limits(arguments: argparse.Namespace) -> Limits:
    changed, free = arguments.changed_above, arguments.free_below
    return Limits(
        when.span(arguments.older_than, "--older-than"),
        os.fsencode(arguments.match or ""),
        None if changed is None else when.share(changed, "--changed-above"),
        None if free is None else when.share(free, "--free-below"),
    )


def _judge(found: Overview, limits: Limits, prefix: bytes) -> list[Problem]:
    problems = list[Problem]()
    if found.is_remembered:
        problems += judgement.problems(found.files, limits, found.now_ns, prefix)
    else:
        text = f"{show(found.place.name)}: {remembered.why_nothing(found.place)}"
        problems.append(Problem(Severity.UNKNOWN, 0, text))
    if found.space is not None:
        name = f"{show(found.place.name)} " if prefix else ""
        space = found.space
        problems += judgement.free_space(space.free, space.total, limits, name)
    return problems


def _judged(seen: list[Overview], limits: Limits) -> list[tuple[Overview, judgement.Found]]:
    return [
        (one, found)
        for one in seen
        if one.is_remembered
        for found in one.files
        if limits.is_meant(found)
    ]


def _all_well(seen: list[Overview], limits: Limits) -> str:
    judged = _judged(seen, limits)
    if not judged:
        return "no file of 1 MiB or more there yet"
    ages = _ages(judged)
    oldest = f", the oldest last good {duration(max(ages))} ago" if ages else ""
    free = _free(seen)
    return f"{len(judged)} {'file' if len(judged) == 1 else 'files'}{oldest}" + (
        "" if free is None else f", {share(free)} free"
    )


def _ages(judged: list[tuple[Overview, judgement.Found]]) -> list[int]:
    """Since when files are good, in ns."""
    return [
        max(0, one.now_ns - found.standing.good_ns)
        for one, found in judged
        if found.standing.good_ns is not None
    ]


def _free(seen: list[Overview]) -> float | None:
    """Which share is free, where that is the least."""
    spaces = [one.space for one in seen if one.space is not None and one.space.total]
    return min((space.free / space.total for space in spaces), default=None)


def _figures(seen: list[Overview], limits: Limits) -> list[str]:
    """The figures for graphs: `'label'=value[UOM];warn;crit;min;max`. A range without a colon is
    what is allowed from 0 on; with one after it, from there on.
    """
    if not seen:
        return []
    judged = _judged(seen, limits)
    files = len(judged)
    standings = [found.standing for _, found in judged]
    incomplete = sum(one.is_incomplete or one.state == "never" for one in standings)
    unusual = sum(bool(one.unusual) for one in standings)
    changed = max((one.changed_share for one in standings), default=0.0)
    changed_limit = "" if limits.changed_above is None else f"{limits.changed_above * 100:g}"
    figures = [
        f"'files'={files};;;0",
        f"'incomplete'={incomplete};;0;0;{files}",
        f"'unusual'={unusual};0;;0;{files}",
        f"'damaged'={sum(one.damaged_chunks > 0 for one in standings)};;0;0;{files}",
        f"'changed'={changed * 100:.2f}%;{changed_limit};;0;100",
    ]
    ages = _ages(judged)
    if ages:
        figures.insert(1, f"'oldest'={max(ages) // 10**9}s;;{limits.older_than_ns // 10**9};0")
    free = _free(seen)
    if free is not None:
        below = limits.free_below
        limit = ";" if below is None else f"{below * 100:g}:;{below * 50:g}:"
        figures.append(f"'free'={free * 100:.2f}%;{limit};0;100")
    spaces = [one.space for one in seen if one.space is not None]
    if spaces:
        figures.append(f"'allocated'={sum(one.files.allocated for one in spaces)}B;;;0")
    return figures


def _print(severity: Severity, text: str, figures: list[str]) -> None:
    # A bar would end the text.
    line = f"{severity.name}: {printable(text)}".replace("|", "\\x7c")
    print(f"{line} | {' '.join(figures)}" if figures else line)
