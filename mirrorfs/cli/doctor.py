"""`mirrorfs doctor`: what is wrong or slow, and the command that mends it."""

from __future__ import annotations

import json
import os
import platform
import pwd
import time
from typing import TYPE_CHECKING, Any

from mirrorfs import __version__
from mirrorfs.catalog.session import iso
from mirrorfs.cli import places
from mirrorfs.daemon import diagnosis, examination, machine, remembered
from mirrorfs.daemon.finding import Anonymous, Level, Plain, command, sentence
from mirrorfs.errors import ExitCode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from mirrorfs.daemon.facts import Examined, Machine
    from mirrorfs.daemon.finding import Finding, Speller

SCHEMA = 1
# The values of these cannot name anything of the user's.
_PUBLIC_OPTIONS = frozenset(
    "zeros unchanged block basis preallocate digests compare direct_writes".split()
)
_EPILOG = """\
A problem loses copies, or will; what is slow costs time or space; a note is
good to know. --anonymous prints a report that can be shown to strangers:
paths, and names of hosts and users, are numbered; the kernel, versions and
options stay.

exit codes: 0 no problem, 1 a problem; others as everywhere
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs doctor`."""
    parser.epilog = _EPILOG
    parser.usage = "mirrorfs doctor [MOUNTPOINT | BACKING] [--json] [--anonymous] [...]"
    parser.add_argument(
        "place",
        metavar="MOUNTPOINT | BACKING",
        nargs="?",
        help="default: every mirrorfs mount; the machine is looked at in any case",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument(
        "--anonymous", action="store_true", help="a whole report, without names, to be shown"
    )
    places.add_state(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what is found; exit code 1 if there is a problem. Raises MirrorfsError for a place that
    is none.
    """
    meant: list[remembered.Place] = []
    if arguments.place is not None or arguments.state is not None:
        meant = places.whole(places.meant(arguments.place, arguments.state), "mirrorfs doctor")
    else:
        meant = remembered.every()
    looked = [examination.examine(place, places.look) for place in meant]
    host = machine.examine([one.name for one in looked if one.state != "unmounted"])
    found = diagnosis.findings(host, looked)
    spell: Speller = Plain(exactly=arguments.json)
    if arguments.anonymous:
        spell = Anonymous(_names())
        for one in looked:
            for path in filter(None, (one.name, one.backing, one.state_folder)):
                spell.path(path)
    if arguments.json:
        print(json.dumps(_as_dict(host, looked, found, spell, arguments.anonymous)))
    else:
        if arguments.anonymous:
            for line in _report(host, looked, spell):
                print(line)
        for line in _lines(found, looked, spell):
            print(line)
    is_bad = any(one.level is Level.PROBLEM for one in found)
    return ExitCode.FAILED if is_bad else ExitCode.DONE


def _names() -> list[str]:
    """Of this host, and of users other than those of the system."""
    node = os.uname().nodename
    users = [user for user in pwd.getpwall() if 1000 <= user.pw_uid < 60_000]
    return [node, node.partition(".")[0], *(user.pw_name for user in users)]


def _lines(found: Sequence[Finding], looked: Sequence[Examined], spell: Speller) -> Iterator[str]:
    for one in found:
        yield f"{one.level + ':':<9}{sentence(one, spell)}"
        if one.command:
            yield f"{'':9}$ {command(one, spell)}"
    if not found:
        count = len(looked)
        yield f"nothing found; looked at the machine and {count} " + (
            "place" if count == 1 else "places"
        )


def _report(host: Machine, looked: Sequence[Examined], spell: Speller) -> Iterator[str]:
    yield f"mirrorfs {__version__}, Python {platform.python_version()}, Linux {host.kernel}"
    for one in looked:
        options = " ".join(f"{name}={value}" for name, value in _given(one, spell, True).items())
        version = f", version {one.version}" if one.version else ""
        kind = one.abilities.get("type") or one.backing_type or "unknown"
        yield f"{spell.path(one.name)}: {one.state}{version}, {kind}" + (
            f", options {options}" if options else ""
        )
    yield ""


def _given(one: Examined, spell: Speller, is_anonymous: bool) -> Mapping[str, Any]:
    """The options that were given, and their values."""

    def shown(name: str, value: object) -> object:
        if not isinstance(value, str) or name in _PUBLIC_OPTIONS or not is_anonymous:
            return value
        return spell.path(os.fsencode(value))

    return {
        name: shown(name, option["value"])
        for name, option in one.options.items()
        if option["from"] == "given"
    }


def _as_dict(
    host: Machine,
    looked: Sequence[Examined],
    found: Sequence[Finding],
    spell: Speller,
    is_anonymous: bool,
) -> dict[str, Any]:
    """For JSON; see the page on JSON."""
    return {
        "schema": SCHEMA,
        "time": iso(time.time_ns()),
        "version": __version__,
        "python": platform.python_version(),
        "kernel": host.kernel,
        "places": [
            {
                "place": spell.path(one.name),
                "backing": spell.path(one.backing),
                "state": one.state,
                "version": one.version or None,
                "file_system": one.abilities.get("type") or one.backing_type or None,
                "options": _given(one, spell, is_anonymous),
            }
            for one in looked
        ],
        "findings": [
            {
                "level": one.level.value,
                "check": one.check,
                "text": sentence(one, spell),
                "command": command(one, spell) or None,
            }
            for one in found
        ],
    }
