"""How much a snapshot of btrfs holds on to, once the next night has been copied."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.benchmark import device, nights, peers

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = ("rsync -a", "cp", "rsync -a --inplace")


@dataclass(frozen=True, slots=True)
class Row:
    """One tool. Bytes of data that the file system counts as used."""

    where: str
    tool: str
    equal: bool
    first_bytes: int
    grown_bytes: int


def measure(work: Path, images: nights.Images, tools: list[str], plains: list[bool]) -> list[Row]:
    """A first copy, a snapshot, the second night; `plains`: whether into the plain folder."""
    return [_tool(work, images, tool, plain) for tool in tools for plain in plains]


def table(rows: list[Row], images: nights.Images) -> list[str]:
    lines = [
        f"Data used on btrfs, grown in the second night over a snapshot of the first. Changed, and"
        f" not zero: {images.changed_bytes:,} bytes.",
        "",
        "| tool | where | equal | first copy, bytes | grown, bytes | grown / changed |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row.tool}` | {row.where} | {'yes' if row.equal else '**NO**'} | {row.first_bytes:,} "
        f"| {row.grown_bytes:,} | {row.grown_bytes / images.changed_bytes:.3f} |"
        for row in rows
    ]
    return lines


def _tool(work: Path, images: nights.Images, tool: str, plain: bool) -> Row:
    where = "plain folder" if plain else "mirrorfs"
    nights.say(f"btrfs, {where}, {tool}: first copy, snapshot, second night")
    with nights.disk(work, "btrfs") as disk:
        with nights.place(disk, plain) as place:
            place.copy(tool, images.first)
            first = _used_bytes(disk.point)
            snapshot = disk.point / "snapshot"
            peers.run("btrfs", "subvolume", "snapshot", "-r", disk.backing, snapshot)
            place.copy(tool, images.second)
            grown = _used_bytes(disk.point) - first
        equal = nights.is_equal(images.second, disk.backing / images.second.name)
        equal &= nights.is_equal(images.first, snapshot / images.first.name)
        return Row(where, tool, equal, first, grown)


def _used_bytes(point: Path) -> int:
    device.settle(point)
    told = re.search(
        r"^Data.*used=(\d+)", peers.run("btrfs", "filesystem", "df", "-b", point), re.MULTILINE
    )
    if told is None:
        raise SystemExit(f"tools/tooltable: btrfs does not say what is used in {point}")
    return int(told[1])
