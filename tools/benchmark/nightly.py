"""The nightly copy of one big image onto a disk of known speed: what a user waits for.

Every contender begins with a new disk, copies the image, the image after a night, and that again
unchanged; the target's caches are cold each time, and sync is part of the time. The sources lie on
a tmpfs, so that they are always warm; so does the file behind the loop device, so that its limit is
the only one. Contenders take turns, and a ratio compares those of the same round.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.benchmark import figures, nights, peers, speed_limit, ways
from tools.benchmark.figures import LESS, MORE, Figure, Ratio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.benchmark.nights import Copied, Disk, Images, Place
    from tools.benchmark.peers import Peer

NIGHTS = (nights.FIRST, nights.CHANGED, nights.UNCHANGED)
INPLACE, SPARSE = "rsync -a --inplace", "rsync -aS"
# The first two are what mirrorfs is held against.
CONTENDERS = (
    (peers.PLAIN, INPLACE),
    (peers.PLAIN, SPARSE),
    (peers.PLAIN, "cp --sparse=always"),
    (peers.PLAIN, "qemu-img convert"),
    (peers.LL, INPLACE),
    (peers.BINDFS, INPLACE),
    (peers.MIRROR, INPLACE),
    (peers.MIRROR, "rsync -a"),
    (peers.MIRROR, "cp"),
    (peers.MIRROR, "qemu-img convert"),
)
_REFERENCES = tuple(f"{where}, {tool}" for where, tool in CONTENDERS[:2])
_READERS = (peers.PLAIN, peers.LL, peers.MIRROR)
_GIB, _MIB = 1 << 30, 1 << 20
_APPARENT_BYTES = 4 * _GIB
_CONTENT_BYTES = 1400 * _MIB  # with the file system's own structures about 1.5 GB
_READ_BYTES = 1 * _GIB
_CHANGED_PERCENT = 1.5
_DISK_GIB = 12
_HEADROOM_BYTES = 3 * _GIB  # page cache and daemons


@dataclass(frozen=True, slots=True)
class Plan:
    """File systems, speeds in MB/s, rounds, and whether everything is a quarter as big."""

    kinds: list[str]
    speeds: list[float]
    runs: int
    is_quick: bool

    def scaled(self, size: int) -> int:
        return size // 4 if self.is_quick else size


def measure(work: Path, plan: Plan) -> dict[str, Any]:
    """`work` lies on a tmpfs. Rows by disk, and what the image was."""
    speed_limit.require()
    peers.require(
        "rsync", "qemu-img", "bindfs", "fincore", *(f"mkfs.{kind}" for kind in plan.kinds)
    )
    _require_memory(plan)
    images = nights.images(
        work, plan.scaled(_CONTENT_BYTES), plan.scaled(_APPARENT_BYTES), _CHANGED_PERCENT
    )
    disks = {}
    for kind in plan.kinds:
        for mb_s in plan.speeds:
            disks[f"{kind}, {mb_s:g} MB/s"] = {
                "copies": _copies(work, kind, mb_s, images, plan.runs),
                "read": _reading(work, kind, mb_s, plan),
            }
    return {
        "image_bytes": images.first.stat().st_size,
        "allocated_bytes": nights.allocated_bytes(images.first),
        "changed_bytes": images.changed_bytes,
        "disks": disks,
    }


def _require_memory(plan: Plan) -> None:
    """The images and a dense copy lie in memory; without swap, too much of it ends processes."""
    needed = plan.scaled(_APPARENT_BYTES + 2 * _CONTENT_BYTES) + _HEADROOM_BYTES
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with open("/proc/meminfo") as told:
        for line in told:
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) << 10
    if free < needed:
        less = "" if plan.is_quick else "; --quick needs less"
        raise SystemExit(
            f"tools/bench: --only nightly: {needed / _GIB:.1f} GiB of memory needed, "
            f"{free / _GIB:.1f} available{less}"
        )


def _copies(
    work: Path, kind: str, mb_s: float, images: Images, runs: int
) -> dict[str, dict[str, Any]]:
    """By contender and night: seconds with sync, and bytes at the device, of every round."""
    names = {f"{where}, {tool}": (where, tool) for where, tool in CONTENDERS}
    taken: dict[str, dict[str, list[Copied]]] = {
        name: {night: [] for night in NIGHTS} for name in names
    }
    for turn in range(runs):
        for name in figures.interleaved(list(names), turn):
            where, tool = names[name]
            nights.say(f"{kind}, {mb_s:g} MB/s, round {turn + 1} of {runs}: {name}")
            for night, copied in _nights(work, kind, mb_s, where, tool, images):
                taken[name][night].append(copied)
    return {
        name: {
            night: {
                "seconds": Figure(tuple(one.synced_seconds for one in found)).as_json(),
                "device_bytes": Figure(tuple(one.device_bytes for one in found)).as_json(),
            }
            for night, found in row.items()
        }
        for name, row in taken.items()
    }


def _nights(
    work: Path, kind: str, mb_s: float, where: str, tool: str, images: Images
) -> Iterator[tuple[str, Copied]]:
    with nights.disk(work, kind, _DISK_GIB, mb_s) as disk, _place(disk, where) as place:
        for night in NIGHTS:
            try:
                copied = place.copied(tool, images.of(night))
            except (ways.CopyError, OSError) as exc:  # a mount that has died answers ENOTCONN
                raise SystemExit(f"tools/bench: {where}, {tool}, {night}: {exc}") from None
            if not copied.equal:
                raise SystemExit(f"tools/bench: {where}, {tool}, {night}: the copy is not equal")
            yield night, copied


@contextmanager
def _place(disk: Disk, where: str) -> Iterator[Place]:
    if where in {peers.PLAIN, peers.MIRROR}:
        with nights.place(disk, plain=where == peers.PLAIN) as place:
            yield place
        return
    with _other(disk, where) as peer:
        yield nights.Place(disk, peer.path)


@contextmanager
def _other(disk: Disk, where: str) -> Iterator[Peer]:
    point = disk.own / "other"
    if where == peers.BINDFS:
        with peers.bindfs(where, disk.backing, point) as peer:
            yield peer
        return
    # Compiled once for all disks.
    with peers.passthrough_ll(disk.own.parent, where, disk.backing, point) as peer:
        yield peer


def _reading(work: Path, kind: str, mb_s: float, plan: Plan) -> dict[str, Any]:
    """MB/s of reading a dense file from the cold disk, in requests of 1 MiB."""
    size = plan.scaled(_READ_BYTES)
    values: dict[str, list[float]] = {name: [] for name in _READERS}
    with nights.disk(work, kind, _DISK_GIB, mb_s) as disk, ExitStack() as stack:
        file = disk.backing / "dense"
        with file.open("wb") as dense:
            for _ in range(size // _MIB):
                dense.write(os.urandom(_MIB))
        folders = {
            peers.PLAIN: disk.backing,
            peers.LL: stack.enter_context(_other(disk, peers.LL)).path,
            peers.MIRROR: stack.enter_context(
                peers.mirror(peers.MIRROR, disk.backing, disk.own / "mirror")
            ).path,
        }
        for turn in range(plan.runs):
            for name in figures.interleaved(_READERS, turn):
                nights.say(f"{kind}, {mb_s:g} MB/s, round {turn + 1}: {name}, reading")
                path = folders[name] / file.name
                speed_limit.forget(path, file)
                speed_limit.require_cold(path, file)
                begun = time.perf_counter()
                speed_limit.read_through(path)
                values[name].append(size / (time.perf_counter() - begun) / 1e6)
    return {name: Figure(tuple(taken)).as_json() for name, taken in values.items()}


def ratios(found: dict[str, Any]) -> dict[str, Ratio]:
    """Each tool through mirrorfs over both references; reading over the plain folder."""
    result: dict[str, Ratio] = {}
    for disk, rows in found["disks"].items():
        copies = {name: _seconds(row) for name, row in rows["copies"].items()}
        for name, row in copies.items():
            if not name.startswith(f"{peers.MIRROR}, "):
                continue
            for reference in _REFERENCES:
                for night, seconds in row.items():
                    label = f"nightly: {disk}, {night}, {name} (/ {reference})"
                    result[label] = Ratio.of(seconds, copies[reference][night], LESS)
        mirror, plain = (figures.from_json(rows["read"][at]) for at in (peers.MIRROR, peers.PLAIN))
        result[f"nightly: {disk}, read, cold (/ {peers.PLAIN})"] = Ratio.of(mirror, plain, MORE)
    return result


def _seconds(row: dict[str, Any]) -> dict[str, Figure]:
    return {night: figures.from_json(cells["seconds"]) for night, cells in row.items()}


def table(found: dict[str, Any]) -> list[str]:
    """Seconds with sync, median (smallest-largest); ratios of the same round."""
    sizes = ("image_bytes", "allocated_bytes", "changed_bytes")
    apparent, allocated, changed = (found[name] / 1e6 for name in sizes)
    lines = [
        f"An image of {apparent:,.0f} MB, {allocated:,.0f} of them allocated; the night changes "
        f"{changed:,.1f} MB to something that is not zero.",
        "",
        *figures.head(
            "disk",
            "night",
            "copy",
            "seconds, with sync",
            "device, MB",
            *(f"/ {name}" for name in _REFERENCES),
        ),
    ]
    for disk, rows in found["disks"].items():
        copies = {name: _seconds(row) for name, row in rows["copies"].items()}
        for night in NIGHTS:
            for name, row in copies.items():
                written = figures.from_json(rows["copies"][name][night]["device_bytes"])
                lines.append(
                    figures.row(
                        disk,
                        night,
                        name,
                        row[night].spelled(1),
                        f"{written.median / 1e6:,.1f}",
                        *(row[night].over(copies[ref][night]).spelled(2) for ref in _REFERENCES),
                    )
                )
    return [*lines, "", *_reading_table(found)]


def _reading_table(found: dict[str, Any]) -> list[str]:
    over = [f"mirrorfs / {name}" for name in _READERS if name != peers.MIRROR]
    lines = figures.head("disk", *(f"{name}, cold, MB/s" for name in _READERS), *over)
    for disk, rows in found["disks"].items():
        row = {name: figures.from_json(cells) for name, cells in rows["read"].items()}
        compared = [
            row[peers.MIRROR].over(row[name]).spelled(2)
            for name in _READERS
            if name != peers.MIRROR
        ]
        lines.append(figures.row(disk, *(row[name].spelled() for name in _READERS), *compared))
    return lines
