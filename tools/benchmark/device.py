"""Bytes that reach the block device, from the sector counts of a loop device after sync."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

from mirrorfs.cli import demo_image
from tools.benchmark import figures, peers
from tools.benchmark.figures import LESS, Figure, Ratio

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096
TOOLS = {
    "rsync --inplace": ["rsync", "-a", "--inplace"],
    "rsync --inplace --no-whole-file": ["rsync", "-a", "--inplace", "--no-whole-file"],
    "rsync -S --inplace --no-whole-file": ["rsync", "-aS", "--inplace", "--no-whole-file"],
    "dd conv=notrunc": None,
}
# Sends nothing of an unchanged file and sets its times: what the file system itself costs.
FLOOR = "rsync --inplace --no-whole-file"


def sectors_written(stat: Path) -> int:
    return int(stat.read_text().split()[6])


def copy(tool: str, image: Path, folder: Path) -> None:
    command = TOOLS[tool]
    if command is None:
        target = f"of={folder / image.name}"
        peers.run("dd", f"if={image}", target, "bs=1M", "conv=notrunc", "status=none")
    else:
        peers.run(*command, image, f"{folder}/")


def later(image: Path) -> None:
    """rsync compares whole seconds."""
    now = time.time_ns() + 2_000_000_000
    os.utime(image, ns=(now, now))


def settle(point: Path) -> None:
    """Let the file system write what it still holds, its own journal included."""
    for _ in range(2):
        peers.run("sync", "-f", point)
    os.sync()


def changed_blocks(old: Path, new: Path) -> int:
    """Blocks of 4 KiB that differ and are not zero in the new image: the least to write."""
    count = 0
    with old.open("rb") as one, new.open("rb") as two:
        while True:
            a, b = one.read(1 << 20), two.read(1 << 20)
            if not a and not b:
                return count
            if a != b:
                for start in range(0, len(b), BLOCK):
                    piece = b[start : start + BLOCK]
                    count += piece != a[start : start + BLOCK] and any(piece)


class Disk:
    """A mount on a loop device, with the counts before and after a copy."""

    def __init__(self, point: Path, stat: Path, folder: Path) -> None:
        self.point, self.stat, self.folder = point, stat, folder

    def copied(self, tool: str, image: Path) -> dict[str, float]:
        settle(self.point)
        sectors, counters = sectors_written(self.stat), self._written()
        begun = time.perf_counter()
        copy(tool, image, self.folder)
        seconds = time.perf_counter() - begun
        settle(self.point)
        device_bytes = (sectors_written(self.stat) - sectors) * 512
        if subprocess.run(["cmp", "-s", image, self.folder / image.name], check=False).returncode:
            raise SystemExit(f"tools/bench: the copy by {tool} is not equal")
        return {
            "device_bytes": device_bytes,
            "written_bytes": self._written() - counters,
            "seconds": seconds,
        }

    def copied_inside(self, size: int) -> dict[str, float]:
        """A copy of `size` bytes from one file of the mount to another, by copy_file_range."""
        source, target = self.folder / "source", self.folder / "target"
        with source.open("wb") as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))
        settle(self.point)
        sectors, counters = sectors_written(self.stat), self._written()
        begun, done = time.perf_counter(), 0
        with source.open("rb") as reading, target.open("wb") as writing:
            while done < size:
                done += os.copy_file_range(reading.fileno(), writing.fileno(), size - done)
        seconds = time.perf_counter() - begun
        settle(self.point)
        device_bytes = (sectors_written(self.stat) - sectors) * 512
        peers.run("cmp", source, target)
        source.unlink()
        target.unlink()
        return {
            "device_bytes": device_bytes,
            "written_bytes": self._written() - counters,
            "seconds": seconds,
        }

    def touched(self) -> dict[str, float]:
        """What the file system itself writes for one new mtime, without us."""
        path = self.point / "touched"
        path.touch()
        settle(self.point)
        sectors = sectors_written(self.stat)
        os.utime(path)
        settle(self.point)
        written = (sectors_written(self.stat) - sectors) * 512
        return {"device_bytes": written, "written_bytes": 0, "seconds": 0.0}

    def _written(self) -> int:
        path = self.folder / ".mirrorfs/stats.json"
        if not path.exists():
            return 0
        return int(json.loads(path.read_text())["counters"]["written_bytes"])


def measure(kinds: tuple[str, ...], parent: Path) -> dict[str, Any]:
    """For each file system: ten bytes of 8 GiB, a night of the demo image, the unchanged image."""
    found: dict[str, Any] = {}
    with peers.scratch(parent) as work:
        first, second, ten = (work / name for name in ("first", "second", "ten"))
        for folder in (first, second, ten):
            folder.mkdir()
        names = demo_image.build(first / "vm.img", work)
        peers.run("cp", "--sparse=always", first / "vm.img", second / "vm.img")
        demo_image.change(second / "vm.img", names, 1.0)
        later(second / "vm.img")
        blocks = changed_blocks(first / "vm.img", second / "vm.img")
        peers.run("cp", "--sparse=always", first / "vm.img", ten / "big.img")
        os.truncate(ten / "big.img", 8 << 30)
        for kind in kinds:
            with peers.disk(work, kind, 12) as (point, stat):
                found[kind] = {"changed_bytes": blocks * BLOCK}
                found[kind].update(_plain(point, stat, first, second))
                found[kind].update(_mirrored(work, point, stat, first, second, ten))
    return found


def _plain(point: Path, stat: Path, first: Path, second: Path) -> dict[str, Any]:
    folder = point / "plain"
    folder.mkdir()
    disk = Disk(point, stat, folder)
    disk.copied("rsync --inplace", first / "vm.img")
    night = disk.copied("rsync --inplace", second / "vm.img")
    later(second / "vm.img")
    floor = disk.copied(FLOOR, second / "vm.img")
    shutil.rmtree(folder)
    return {
        "night, plain folder, rsync --inplace": night,
        f"unchanged, plain folder, {FLOOR}": floor,
    }


def _mirrored(
    work: Path, point: Path, stat: Path, first: Path, second: Path, ten: Path
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, tool in enumerate(TOOLS):
        # A backing folder of its own: a removed file would be the seed of the next first copy.
        backing, mount = point / f"backing-{number}", work / f"{point.name}-mirror-{number}"
        with peers.mirror(peers.MIRROR, backing, mount):
            disk = Disk(point, stat, mount)
            found[f"first copy, {tool}"] = disk.copied(tool, first / "vm.img")
            found[f"night, {tool}"] = disk.copied(tool, second / "vm.img")
            later(second / "vm.img")
            found[f"unchanged, {tool}"] = disk.copied(tool, second / "vm.img")
    mount = work / f"{point.name}-mirror"
    with peers.mirror(peers.MIRROR, point / "backing", mount):
        disk = Disk(point, stat, mount)
        found["512 MiB copied inside the mount"] = disk.copied_inside(512 << 20)
        disk.copied("rsync --inplace", ten / "big.img")
        with (ten / "big.img").open("r+b") as file:
            file.seek(100 << 20)
            file.write(os.urandom(10))
        later(ten / "big.img")
        found["one file touched, for comparison"] = disk.touched()
        found["ten bytes of 8 GiB, rsync --inplace"] = disk.copied(
            "rsync --inplace", ten / "big.img"
        )
    return found


def memory(parent: Path) -> dict[str, float]:
    """Resident size of the daemon after 10,000 and 20,000 known files; descriptors it holds."""
    with peers.scratch(parent) as work:
        backing = work / "backing"
        for number in range(20_000):
            path = backing / f"folder-{number // 10_000}" / f"some-file-name-{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with peers.mirror("mirrorfs", backing, work / "m") as peer:
            sizes = [peers.memory_mib(peer.pid, "VmRSS")]
            for folder in ("folder-0", "folder-1"):
                with os.scandir(peer.path / folder) as entries:
                    for entry in entries:
                        entry.stat()
                for name in os.listdir(peer.path / folder):
                    os.getxattr(peer.path / folder / name, "user.mirrorfs.stats")
                sizes.append(peers.memory_mib(peer.pid, "VmRSS"))
            held = len(os.listdir(f"/proc/{peer.pid}/fd"))
    return {
        "MiB after mount": sizes[0],
        "MiB after 10,000 files": sizes[1],
        "MiB after 20,000 files": sizes[2],
        "KiB a file beyond 10,000": (sizes[2] - sizes[1]) * 1024 / 10_000,
        "descriptors": held,
    }


def ratios(found: dict[str, Any]) -> dict[str, Ratio]:
    """Bytes at the device in a night over the least that must be written; metadata is in it."""
    result: dict[str, Ratio] = {}
    for kind, rows in found.items():
        least = Figure((rows["changed_bytes"],))
        for label, row in _copies(rows):
            if label.startswith("night, ") and peers.PLAIN not in label:
                written = Figure((row["device_bytes"],))
                result[f"device: {kind}, {label}"] = Ratio.of(written, least, LESS)
    return result


def table(found: dict[str, Any]) -> list[str]:
    lines = figures.head(
        "file system", "copy", "written, bytes", "device, bytes", "device / changed", "seconds"
    )
    for kind, rows in found.items():
        for label, row in _copies(rows):
            ratio = row["device_bytes"] / rows["changed_bytes"]
            lines.append(
                figures.row(
                    kind,
                    label,
                    f"{row['written_bytes']:,}",
                    f"{row['device_bytes']:,}",
                    f"{ratio:.3f}" if label.startswith("night") else "",
                    f"{row['seconds']:.1f}",
                )
            )
    return lines


def memory_table(found: dict[str, float]) -> list[str]:
    lines = figures.head("memory", "")
    return [*lines, *(figures.row(name, f"{value:,.2f}") for name, value in found.items())]


def _copies(rows: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return [(label, row) for label, row in rows.items() if label != "changed_bytes"]
