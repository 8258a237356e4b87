"""`mirrorfs scrub`: what is stored is read from the disk, and compared with its digests."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.cli import places, scrub_text, when
from mirrorfs.cli.output import note
from mirrorfs.daemon import priority, scrub_place, timed_calls
from mirrorfs.daemon.scrub import Pace, Scrubber
from mirrorfs.errors import ExitCode, MirrorfsError, UsageError

if TYPE_CHECKING:
    import argparse
    from types import FrameType

    from mirrorfs.daemon.remembered import Place

_EPILOG = """\
PATH is a mount point, a backing folder, or a file or folder in one. Mounted or
not, the backing files are read, from the disk. What has no digests yet is
learned; files in use are left out; those smaller than 1 MiB have none. A scrub
that was stopped goes on the next time. All else goes first (idle priority).

exit codes:
  0 nothing is damaged, also if its time was over, 8 something is damaged or
  cannot be read, 1 something could not be scrubbed, 6 another scrub is under
  way, 9 the state folder cannot be used, 12 a mount or a disk does not answer

examples:
  mirrorfs scrub /srv/backup
  mirrorfs scrub /mnt/mirror --for 2h --rate 50M
  mirrorfs scrub /mnt/mirror/vm.img --repair-from /var/lib/libvirt/images/vm.img
"""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What is certain comes first.
_RANK = (ExitCode.DIFFERENCE, ExitCode.FAILED, ExitCode.DONE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs scrub`."""
    parser.epilog = _EPILOG
    parser.add_argument("paths", metavar="PATH", nargs="+", help="what is scrubbed")
    parser.add_argument(
        "--for",
        dest="span",
        metavar="SPAN",
        help="stop after that time, as 30m or 2h; the next scrub goes on there",
    )
    parser.add_argument("--rate", metavar="SIZE", help="read no more a second, as 50M")
    parser.add_argument(
        "--repair-from",
        metavar="SOURCE",
        help="write damaged chunks anew from this file, or from the file of the same path in this "
        "folder, where it has what the digest says",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each file")
    places.add_state(parser)


class Stop:
    """Stops the reading at the first signal; a second one ends the command."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.number = 0
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in self._before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._pace.stop()
        for one, handler in self._before.items():
            signal.signal(one, handler)


def run(arguments: argparse.Namespace) -> int:
    """Scrub, and print what was found; exit code 8 if something is damaged."""
    rate = None if arguments.rate is None else when.size(arguments.rate, "--rate")
    span = None if arguments.span is None else when.span(arguments.span, "--for") / 1e9
    source = None
    if arguments.repair_from is not None:
        source = timed_calls.resolve(os.fsencode(arguments.repair_from))
        timed_calls.call(_look, source)
        if len(arguments.paths) > 1:
            raise UsageError("--repair-from: goes with one PATH")
    meant = [places.meant(path, arguments.state)[0] for path in arguments.paths]
    priority.be_idle()
    pace = Pace(rate, span)
    stop = Stop(pace)
    codes = {ExitCode.DONE}
    for place in meant:
        if pace.is_over():
            break
        try:
            codes.add(_scrub(place, pace, source, arguments.json))
        except MirrorfsError as exc:
            if len(meant) == 1:
                raise
            note(str(exc))
            codes.add(ExitCode.FAILED)
    if stop.number:
        return 128 + stop.number
    return next(code for code in _RANK if code in codes)


def _look(path: bytes) -> int:
    """Raises OSError if there is nothing."""
    return os.stat(path).st_size


def _scrub(place: Place, pace: Pace, source: bytes | None, as_json: bool) -> ExitCode:
    with scrub_place.opened(place) as where, scrub_text.Report(place, as_json) as report:
        scrubber = Scrubber(
            where, place.below, pace, source, report.add, report.warn, report.progress.tell
        )
        try:
            scrub = scrubber.run()
        except OSError as exc:
            named = exc.filename or os.path.join(place.backing, place.below)
            raise MirrorfsError(f"{show(os.fsencode(named))}: {exc.strerror}") from None
        return report.end(scrub, scrubber.is_kept, scrubber.unread_folders)
