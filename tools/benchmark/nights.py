"""One copy of an image by one tool onto a disk of our own, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.cli import demo_image
from tools.benchmark import device, peers, speed_limit, ways

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, CHANGED, UNCHANGED = "first copy", "second night", "unchanged"
_UNMOUNT_SECONDS = 30
COUNTERS = ("written_bytes", "unchanged_bytes", "shared_bytes")


@dataclass(frozen=True, slots=True)
class Copied:
    """One copy. Allocated are the image and the backing file, `seconds` without and with sync;
    `counted` what the mount's counters of COUNTERS gained, empty without a mount.
    """

    equal: bool
    image_bytes: int
    allocated_bytes: int
    device_bytes: int
    seconds: float
    synced_seconds: float
    counted: dict[str, int]


@dataclass(frozen=True, slots=True)
class Images:
    """The image of the first night and that of the second, which has the same name."""

    first: Path
    second: Path
    changed_bytes: int

    def of(self, night: str) -> Path:
        """The source of a night's copy, as rsync does not skip it."""
        if night == UNCHANGED:
            later(self.second)
        return self.first if night == FIRST else self.second


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system on a loop device. `backing` is a folder on it, `stat` the device's counts,
    `image` the file that the device is made of.
    """

    own: Path
    image: Path
    point: Path
    stat: Path
    backing: Path
    is_cold: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where copies go: the disk's folder itself, or a mount over it."""

    disk: Disk
    folder: Path

    def copy(self, tool: str, image: Path) -> None:
        """A copy that is not measured, and is on the disk afterwards. Ends all if it fails."""
        try:
            ways.perform(ways.prepare(tool, image, self.folder, ssh=""))
        except ways.CopyError as exc:
            raise SystemExit(f"tools/benchmark: {tool} failed: {exc}") from None
        peers.run("sync", "-f", self.disk.point)

    def copied(self, tool: str, image: Path, ssh: str = "") -> Copied:
        """Raises CopyError if the tool fails."""
        command = ways.prepare(tool, image, self.folder, ssh)
        device.settle(self.disk.point)
        if self.disk.is_cold:
            speed_limit.read_through(image)
            targets = (self.folder / image.name, self.disk.backing / image.name)
            speed_limit.forget(*targets)
            speed_limit.require_cold(*targets)
        sectors, counters = device.sectors_written(self.disk.stat), self._counters()
        begun = time.perf_counter()
        ways.perform(command)
        seconds = time.perf_counter() - begun
        peers.run("sync", "-f", self.disk.point)
        synced_seconds = time.perf_counter() - begun
        device.settle(self.disk.point)
        device_bytes = (device.sectors_written(self.disk.stat) - sectors) * 512
        now = self._counters()
        return Copied(
            self._holds(image),
            allocated_bytes(image),
            allocated_bytes(self.disk.backing / image.name),
            device_bytes,
            seconds,
            synced_seconds,
            counted={name: now[name] - counters[name] for name in now},
        )

    def _holds(self, image: Path) -> bool:
        """Whether the image is there, seen through the mount and below it."""
        folders = {self.folder, self.disk.backing}
        return all(is_equal(image, folder / image.name) for folder in folders)

    def _counters(self) -> dict[str, int]:
        account = self.folder / ".mirrorfs/stats.json"
        if self.folder == self.disk.backing or not account.exists():
            return {}
        counters = json.loads(account.read_text())["counters"]
        return {name: int(counters[name]) for name in COUNTERS}


def say(text: str) -> None:
    print(f"tools/benchmark: {text}", file=sys.stderr, flush=True)


def images(
    work: Path,
    content_bytes: int,
    apparent_bytes: int = demo_image.APPARENT_BYTES,
    percent: float = 1.0,
) -> Images:
    """The demo image, and the same after a night that has changed `percent` of its data."""
    first, second = (work / name / "vm.img" for name in ("first", "second"))
    for image in (first, second):
        image.parent.mkdir()
    say("making the image and what a night leaves of it")
    made = work / "vm.img"
    names = demo_image.build(made, work, content_bytes, apparent_bytes)
    # mkfs preallocates its journal, which would count as allocated in the source alone.
    peers.run("cp", "--sparse=always", made, first)
    made.unlink()
    peers.run("cp", "--sparse=always", first, second)
    demo_image.change(second, names, percent)
    later(second)
    os.sync()  # delayed allocation would not count
    changed = device.changed_blocks(first, second) * device.BLOCK
    return Images(first, second, changed)


@contextmanager
def disk(work: Path, kind: str, size_gib: int = 12, mb_s: float | None = None) -> Iterator[Disk]:
    """A new disk for one tool, so that none meets what another has left; mb_s holds its speed."""
    own = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=work))
    with peers.disk(own, kind, size_gib) as (point, stat), speed_limit.held(stat, mb_s):
        backing = point / "backing"
        if kind == "btrfs":
            peers.run("btrfs", "subvolume", "create", backing)
        else:
            backing.mkdir()
        yield Disk(own, own / f"{kind}.img", point, stat, backing, is_cold=mb_s is not None)


@contextmanager
def place(disk: Disk, plain: bool) -> Iterator[Place]:
    """The folder on the disk itself, or through a mount; after it the daemon has ended."""
    if plain:
        yield Place(disk, disk.backing)
        return
    with peers.mirror("mirrorfs", disk.backing, disk.own / "mirror") as peer:
        yield Place(disk, peer.path)
    end = time.monotonic() + _UNMOUNT_SECONDS
    while Path(f"/proc/{peer.pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)


def later(image: Path, before: int | None = None) -> None:
    """Set the time two seconds on from `before`, its own time if not given: rsync compares whole
    seconds, and two nights here may lie within one.
    """
    then = (image.stat().st_mtime_ns if before is None else before) + 2_000_000_000
    os.utime(image, ns=(then, then))


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def is_equal(one: Path, two: Path) -> bool:
    return not subprocess.run(["cmp", "-s", one, two], check=False).returncode
