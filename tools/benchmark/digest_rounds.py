"""One round of what digests cost, on a new disk: three nights, new data, and cold reads at the end.

A night is a mount of its own, so that its sessions have ended, and their digests are below, when
the next one begins. The disk is held to a speed where it is waited for, and free elsewhere.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tools.benchmark import copies, floor, machine
from tools.benchmark.contenders import ROOT, Contender, Mounted, Words
from tools.benchmark.copies import FIRST, NIGHTS, CopyError, Cost, Images
from tools.benchmark.machine import Disk

FLOOR = "pyfuse3 that does nothing"
CAT, SCRUB = "cat", "mirrorfs scrub"
BY_DIGEST, BY_BYTES, OFF = "compare=digest", "compare=bytes", "digests=off"
OPTIONS = {BY_DIGEST: f"digests=on,{BY_DIGEST}", BY_BYTES: f"digests=on,{BY_BYTES}", OFF: OFF}
NEW = {"1 MiB": 1 << 20, "256 KiB": 256 << 10}  # requests of new data
# rsync would choose it for itself, between two local folders.
_TOOL = "rsync -a --inplace --whole-file {image} {folder}/"
_LOOK_SECONDS = 0.02
_BLOCK = os.urandom(1 << 20)


@dataclass(frozen=True, slots=True)
class Way:
    """A contender and its options for -o; `is_scrubbed` if the copy is read at the end."""

    contender: Contender
    options: str = ""
    is_scrubbed: bool = False

    @property
    def is_floor(self) -> bool:
        return self.contender.name == FLOOR


@dataclass(frozen=True, slots=True)
class Piece:
    """A night, or new data: `data_bytes` were given to the tool, and `ended_bytes` were written to
    the device once the mount had ended.
    """

    cost: Cost
    data_bytes: int
    ended_bytes: int

    @property
    def mb_s(self) -> float:
        return self.data_bytes / self.cost.seconds / 1e6

    @property
    def synced_mb_s(self) -> float:
        return self.data_bytes / self.cost.synced_seconds / 1e6


@dataclass(frozen=True, slots=True)
class Read:
    """Of `data_bytes` that the file has: what the device gave, and the most memory in MiB that the
    program had, and the daemon beside it.
    """

    seconds: float
    data_bytes: int
    read_bytes: int
    peak_mib: float
    daemon_mib: float = 0.0

    @property
    def mb_s(self) -> float:
        return self.data_bytes / self.seconds / 1e6


@dataclass(frozen=True, slots=True)
class Round:
    """By night or kind of data, and by program. A round that failed is empty."""

    pieces: dict[str, Piece] = field(default_factory=dict)
    reads: dict[str, Read] = field(default_factory=dict)


def floor_contender() -> Contender:
    """pyfuse3 in our own environment, answering and doing nothing."""
    return Contender(FLOOR, _floor_command)


def _floor_command(backing: Path, point: Path, _options: str) -> Words:
    # -P: the modules beside that file must not hide others of their names.
    return [ROOT / ".venv/bin/python", "-P", Path(floor.__file__), backing, point]


def measure(disk: Disk, way: Way, made: Images, mb_s: float | None) -> Round:
    """All nights, and the cold reads where they are wanted. Raises CopyError or OSError."""
    copy = disk.backing / made.second.name
    if way.is_floor:
        copy.touch()
        os.truncate(copy, made.image_bytes)
        os.utime(copy, (0, 0))
    pieces = {night: _night(disk, way, made, night, mb_s) for night in NIGHTS}
    if not way.is_floor and not copies.is_equal(made.second, copy):
        raise CopyError("the copy is not equal once it is unmounted")
    return Round(pieces, _reads(disk, way, copy, mb_s) if way.is_scrubbed else {})


def _night(disk: Disk, way: Way, made: Images, night: str, mb_s: float | None) -> Piece:
    source = made.of(night)
    copy = disk.backing / source.name
    machine.read_through(source)

    def act(mounted: Mounted) -> None:
        before = _received_bytes(mounted) if way.is_floor else 0
        copies.perform(_TOOL.format_map(_quoted(image=source, folder=mounted.path)))
        if way.is_floor and _received_bytes(mounted) - before != made.image_bytes:
            raise CopyError("the file system that does nothing did not get the whole image")

    def check(mounted: Mounted) -> None:
        if not way.is_floor and not copies.is_equal(source, mounted.path / source.name):
            raise CopyError("the copy is not equal")

    cold = () if night == FIRST else (copy,)
    return _piece(disk, way, made.image_bytes, act, check, cold, mb_s)


def _piece(
    disk: Disk,
    way: Way,
    data_bytes: int,
    act: Callable[[Mounted], None],
    check: Callable[[Mounted], None] = lambda _: None,
    cold: tuple[Path, ...] = (),
    mb_s: float | None = None,
) -> Piece:
    """What an act in a mount costs; the caches are dropped before it, of the files `cold` surely.
    Neither the check after it nor the end of the mount counts in seconds.
    """
    with way.contender.mounted(disk.backing, disk.own / "mount", way.options) as mounted:
        disk.settle()
        written = disk.moved_bytes()[1]
        machine.drop_caches()
        machine.require_cold(*cold)
        machine.run("rsync", "--version")  # from the machine's own disk
        with disk.held(mb_s):
            cost = copies.cost(disk, mounted, lambda: act(mounted))
        check(mounted)
    disk.settle()
    return Piece(cost, data_bytes, disk.moved_bytes()[1] - written)


def new_data(disk: Disk, way: Way, total: int) -> Round:
    """A new file of `total` bytes by requests of each size."""
    acts = {name: partial(_write, total, size) for name, size in NEW.items()}
    return Round({name: _piece(disk, way, total, act) for name, act in acts.items()})


def _write(total: int, size: int, mounted: Mounted) -> None:
    blocks = [_BLOCK[at : at + size] for at in range(0, len(_BLOCK), size)]
    fd = os.open(mounted.path / f"{size}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for turn, offset in enumerate(range(0, total, size)):
            os.pwrite(fd, blocks[turn % len(blocks)], offset)
    finally:
        os.close(fd)


def _reads(disk: Disk, way: Way, copy: Path, mb_s: float | None) -> dict[str, Read]:
    """Of the copy from below by `cat`, and of the mount by a scrub; both from a cold disk."""
    program = way.contender.program
    found: dict[str, Read] = {}
    with way.contender.mounted(disk.backing, disk.own / "mount", way.options) as mounted:
        commands: dict[str, Words] = {CAT: ["cat", copy]}
        if program is not None:
            commands[SCRUB] = [program, "scrub", mounted.path]
        for name, words in commands.items():
            disk.settle()
            machine.drop_caches()
            machine.require_cold(copy)
            with disk.held(mb_s):
                found[name] = _read(disk, mounted, words, copies.allocated_bytes(copy))
    return found


def _read(disk: Disk, mounted: Mounted, words: Words, data_bytes: int) -> Read:
    """Run a program that reads, without its output. Raises CopyError if it fails."""
    before = disk.moved_bytes()[0]
    with (disk.own / "stderr").open("w+") as errors:
        begun = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors) as process:
            peak_mib = 0.0
            while process.poll() is None:
                # The kernel's mark only grows; after the end it cannot be read.
                peak_mib = max(
                    peak_mib, Mounted(disk.own, disk.own, process.pid).memory_mib("VmHWM")
                )
                time.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - begun
        errors.seek(0)
        if process.returncode:
            said = errors.read().strip().splitlines() or [f"ended with {process.returncode}"]
            raise CopyError(f"{shlex.join(map(str, words))}: {said[-1]}")
    read_bytes = disk.moved_bytes()[0] - before
    return Read(seconds, data_bytes, read_bytes, peak_mib, mounted.memory_mib("VmHWM"))


def _received_bytes(mounted: Mounted) -> int:
    return int(os.getxattr(mounted.path, floor.RECEIVED))


def _quoted(**paths: Path) -> dict[str, str]:
    return {name: shlex.quote(str(path)) for name, path in paths.items()}
