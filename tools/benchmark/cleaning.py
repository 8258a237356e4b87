"""A scratch folder of which no mount and no loop device is left, not after a signal either."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder for the work. A signal ends the work; later ones do not end the cleaning."""
    with scratches(parent) as (work,):
        yield work


@contextmanager
def scratches(*parents: Path) -> Iterator[list[Path]]:
    """A folder in each of several places, cleaned up together."""
    for number in _ENDING:
        signal.signal(number, _end)
    works: list[Path] = []
    is_interrupted = False
    try:
        works += [Path(tempfile.mkdtemp(prefix="mirrorfs-bench-", dir=place)) for place in parents]
        yield works
    except SystemExit as exc:
        is_interrupted = isinstance(exc.code, int) and exc.code > 128
        raise
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        for work in works:
            sweep(work)
        if is_interrupted:
            time.sleep(1)  # what was being mounted when the signal came
        for work in works:
            _remove(work, is_interrupted)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _remove(work: Path, is_interrupted: bool) -> None:
    if is_interrupted:
        sweep(work)
    shutil.rmtree(work, ignore_errors=True)
    if is_interrupted:
        left = "; see what is left there" if work.exists() else "; everything was removed again"
        print(f"{work}: interrupted{left}", file=sys.stderr)


def sweep(work: Path) -> None:
    """Unmount and detach all that lies below `work`, whoever was stopped while making it."""
    for point in reversed(_mounts(work)):
        _quietly("umount", "--lazy", point)
    for line in _quietly("losetup", "--list", "--noheadings", "-O", "NAME,BACK-FILE").splitlines():
        device, _, file = line.partition(" ")
        if file.strip().startswith(f"{work}/"):
            _quietly("losetup", "--detach", device)


def _mounts(work: Path) -> list[str]:
    """Mount points below, in the order in which they were mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(f"{work}/")]


def _quietly(*words: str) -> str:
    # In a session of its own: a second Ctrl-C reaches us alone.
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, start_new_session=True
    )
    return done.stdout
