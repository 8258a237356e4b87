"""Which mounts and backing folders a command means, and reading what is remembered of them."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.daemon import overview, remembered, timed_calls
from mirrorfs.errors import MirrorfsError, NotAMountError, UsageError

if TYPE_CHECKING:
    import argparse

    from mirrorfs.daemon.overview import Overview
    from mirrorfs.daemon.remembered import Place

_PATIENCE_SECONDS = 2.0


def add_state(parser: argparse.ArgumentParser) -> None:
    """Declare the word for a state folder that cannot be found by itself."""
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="the state folder, where the backing folder is not mounted and it is not in there",
    )


def meant(path: str | None, state: str | None) -> list[Place]:
    """The places that are meant: the one that `path` lies in, or all that are mounted. Raises
    NotAMountError if there is none.
    """
    folder = None if state is None else timed_calls.resolve(os.fsencode(state))
    if path is not None:
        return [remembered.find(timed_calls.resolve(os.fsencode(path)), folder)]
    if folder is not None:
        raise UsageError("--state: name the backing folder, too")
    found = remembered.every()
    if not found:
        raise NotAMountError(
            "no mirrorfs is mounted here; name a backing folder to see what is remembered of it"
        )
    return found


def whole(places: list[Place], command: str) -> list[Place]:
    """The places, if whole ones were meant; UsageError for a file or folder in one."""
    for place in places:
        if place.below:
            raise UsageError(
                f"{show(place.below)}: neither a mount point nor a backing folder; '{command}' "
                f"wants {show(place.name)}, and 'mirrorfs history' takes files, too"
            )
    return places


def look(place: Place) -> Overview:
    """Look at a place; says on a terminal how far that is, if it takes long. Raises MirrorfsError,
    also for a place that goes away meanwhile.
    """
    with remembered.opened(place) as db:
        progress = _Progress()
        try:
            return overview.look(place, db, progress.tell)
        except OSError as exc:
            raise MirrorfsError(f"{show(place.name)}: {exc.strerror}") from None
        finally:
            progress.end()


class _Progress:
    """One line on a terminal, that is wiped out at the end."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PATIENCE_SECONDS
        self._is_shown = False
        self._is_wanted = sys.stderr is not None and sys.stderr.isatty()

    def tell(self, files: int) -> None:
        if self._is_wanted and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            self._is_shown = True
            print(f"\r{files:,} files seen", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
