"""A scratch folder of which no mount and no loop device is left, not after a signal either."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.cli.interruption import Interruption

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder for the work. The first signal ends the work; later ones do not end the cleaning."""
    with scratches(parent) as (work,):
        yield work


@contextmanager
def scratches(*parents: Path) -> Iterator[list[Path]]:
    """A folder in each of several places, cleaned up together."""
    signals = Interruption()
    works: list[Path] = []
    try:
        works += [Path(tempfile.mkdtemp(prefix="mirrorfs-bench-", dir=place)) for place in parents]
        signals.held = False
        signals.check()
        yield works
    finally:
        signals.held = True
        for work in works:
            sweep(work)
        if signals.number is not None:
            time.sleep(1)  # what was being mounted when the signal came
        for work in works:
            _remove(work, is_interrupted=signals.number is not None)


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
