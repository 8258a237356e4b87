"""What many nights of small random changes make of one dense file: extents, and a cold reading."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.benchmark import device, nights, peers, speed_limit

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = ("rsync -a", "rsync -a --inplace", "cp")
_BLOCK = 4096
_MIB = 1 << 20
_SHARE = 100  # one block in so many changes each night


@dataclass(frozen=True, slots=True)
class Story:
    """How many nights, and how big the file is."""

    nights: int
    mib: int

    @property
    def reported(self) -> list[int]:
        """The nights after which extents are counted; 0 is the first copy."""
        return sorted({0, 1, *range(10, self.nights + 1, 10), self.nights})


@dataclass(frozen=True, slots=True)
class Row:
    """One tool on one disk. `extents` by night."""

    kind: str
    where: str
    tool: str
    equal: bool
    extents: dict[int, int]
    read_seconds: float


def measure(
    work: Path, kinds: list[str], tools: list[str], plains: list[bool], story: Story
) -> list[Row]:
    """Every tool on a disk of its own; `plains` says for each whether it is the plain folder."""
    return [
        _tool(work, kind, tool, plain, story)
        for kind in kinds
        for tool in tools
        for plain in plains
    ]


def table(rows: list[Row]) -> list[str]:
    counted = list(rows[0].extents)
    names = ["first copy" if night == 0 else f"night {night}" for night in counted]
    head = f"| file system | tool | where | equal | {' | '.join(names)} | cold reading, seconds |"
    lines = ["Extents of the file below.", "", head, "|---" * (head.count("|") - 1) + "|"]
    for row in rows:
        extents = " | ".join(f"{row.extents[night]:,}" for night in counted)
        lines.append(
            f"| {row.kind} | `{row.tool}` | {row.where} | {'yes' if row.equal else '**NO**'} "
            f"| {extents} | {row.read_seconds:.2f} |"
        )
    return lines


def _tool(work: Path, kind: str, tool: str, plain: bool, story: Story) -> Row:
    where = "plain folder" if plain else "mirrorfs"
    source = work / "dense" / "vm.img"
    chance = random.Random(1)  # the same nights for everybody
    nights.say(f"{kind}, {tool}, {where}: making {story.mib} MiB")
    _make(source, story.mib, chance)
    extents: dict[int, int] = {}
    with nights.disk(work, kind, size_gib=4 + 3 * story.mib // 1024) as disk:
        copy = disk.backing / source.name
        with nights.place(disk, plain) as place:
            for night in range(story.nights + 1):
                if night:
                    _change(source, chance)
                place.copy(tool, source)
                if night in story.reported:
                    extents[night] = _extents(copy)
                    nights.say(f"{kind}, {tool}, {where}: night {night}, {extents[night]} extents")
        read_seconds = _read_cold(copy, disk)
        return Row(kind, where, tool, nights.is_equal(source, copy), extents, read_seconds)


def _make(source: Path, mib: int, chance: random.Random) -> None:
    source.parent.mkdir(exist_ok=True)
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(chance.randbytes(_MIB))


def _change(source: Path, chance: random.Random) -> None:
    was = source.stat()
    blocks = was.st_size // _BLOCK
    with source.open("r+b") as file:
        for block in chance.sample(range(blocks), blocks // _SHARE):
            file.seek(block * _BLOCK)
            file.write(chance.randbytes(_BLOCK))
    nights.later(source, was.st_mtime_ns)


def _extents(path: Path) -> int:
    told = re.search(r"(\d+) extents? found", peers.run("filefrag", "-v", path))
    if told is None:
        raise SystemExit(f"tools/tooltable: filefrag says nothing of {path}")
    return int(told[1])


def _read_cold(path: Path, disk: nights.Disk) -> float:
    """Seconds to read the file below. The loop device's own file must be cold as well."""
    device.settle(disk.point)
    speed_limit.forget(path, disk.image)
    begun = time.perf_counter()
    speed_limit.read_through(path)
    return time.perf_counter() - begun
