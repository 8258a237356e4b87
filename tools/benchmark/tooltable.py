"""Run every tool's copies, or the longer stories, and write one JSON and one readable table."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirrorfs.cli import demo_image
from tools.benchmark import cleaning, fragmentation, nights, snapshots, speed_limit, ways

if TYPE_CHECKING:
    from collections.abc import Iterator

_NIGHTS = (nights.FIRST, nights.CHANGED, nights.UNCHANGED)
_PLAIN, _MIRROR = "plain folder", "mirrorfs"
_REFERENCE = "rsync -aS"  # into the plain folder: what a night takes without us
_HEAD = (
    "| file system | where | tool | night | equal | allocated / image | device, bytes"
    " | device / least | written | unchanged | shared | seconds | with sync |"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One copy, or why there is none."""

    kind: str
    where: str
    tool: str
    night: str
    result: nights.Copied | None = None
    error: str = ""


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if (arguments.fragmentation or arguments.snapshots) and ways.needs_sshd(arguments.only or []):
        parser.error("scp is measured in the table only")
    if arguments.disk_mb_s is not None:
        speed_limit.require()
    kinds: list[str] = arguments.fs.split(",")
    result: dict[str, Any] = {"schema": 1, "machine": platform.platform()}
    with cleaning.scratch(arguments.folder) as work:
        if arguments.fragmentation:
            found, text, is_good = _fragmentation(work, kinds, arguments)
        elif arguments.snapshots:
            found, text, is_good = _snapshots(work, arguments)
        else:
            found, text, is_good = _copies(work, kinds, arguments)
    result.update(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(text))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(text) + "\n")
    return 0 if is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/tooltable",
        description=__doc__,
        epilog="Exit code 1 if a copy is not equal or a tool failed.",
    )
    story = parser.add_mutually_exclusive_group()
    story.add_argument("--fragmentation", action="store_true", help="extents after many nights")
    story.add_argument("--snapshots", action="store_true", help="what a snapshot holds (btrfs)")
    parser.add_argument("--fs", default="ext4,xfs,btrfs", help="file systems on the loop device")
    parser.add_argument(
        "--only", action="append", choices=list(ways.TOOLS), metavar="TOOL", help="repeatable"
    )
    parser.add_argument("--plain", action="store_true", help="the plain folder only")
    parser.add_argument("--disk-mb-s", type=float, metavar="N", help="hold the disk to N MB/s")
    parser.add_argument("--content-mib", type=int, default=demo_image.CONTENT_BYTES >> 20)
    parser.add_argument("--nights", type=int, default=30, help="of --fragmentation (30)")
    parser.add_argument("--mib", type=int, default=512, help="size for --fragmentation (512)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser


def _copies(
    work: Path, kinds: list[str], arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[str], bool]:
    tools: list[str] = arguments.only or list(ways.TOOLS)
    rows: list[Row] = []
    with ExitStack() as stack:
        ssh = stack.enter_context(ways.sshd(work)) if ways.needs_sshd(tools) else ""
        images = nights.images(work, arguments.content_mib << 20)
        for kind in kinds:
            jobs = [(tool, arguments.plain) for tool in tools]
            if arguments.disk_mb_s is not None and (_REFERENCE, True) not in jobs:
                jobs.insert(0, (_REFERENCE, True))
            for tool, plain in jobs:
                rows += _tool(work, kind, tool, plain, images, ssh, arguments.disk_mb_s)
    found = {
        "changed_bytes": images.changed_bytes,
        "disk_mb_s": arguments.disk_mb_s,
        "copies": [asdict(row) for row in rows],
    }
    is_good = all(row.result is not None and row.result.equal for row in rows)
    return found, copies_table(rows, images, arguments.disk_mb_s is not None), is_good


def _tool(
    work: Path,
    kind: str,
    tool: str,
    plain: bool,
    images: nights.Images,
    ssh: str,
    mb_s: float | None,
) -> list[Row]:
    """Three nights of one tool on a disk of its own; they end where the tool fails."""
    where = _PLAIN if plain else _MIRROR
    with nights.disk(work, kind, mb_s=mb_s) as disk:
        with nights.place(disk, plain) as place:
            rows = list(_nights(Row(kind, where, tool, ""), place, images, ssh))
        last = rows[-1].result
        if last is not None and not nights.is_equal(images.second, disk.backing / "vm.img"):
            nights.say(f"{kind}, {tool}: not equal after the mount has ended")
            rows[-1] = replace(rows[-1], result=replace(last, equal=False))
    return rows


def _nights(row: Row, place: nights.Place, images: nights.Images, ssh: str) -> Iterator[Row]:
    for night in _NIGHTS:
        nights.say(f"{row.kind}, {row.where}, {row.tool}: {night}")
        try:
            result = place.copied(row.tool, images.of(night), ssh)
        except (ways.CopyError, OSError) as exc:  # a mount that has died answers ENOTCONN
            nights.say(f"failed: {exc}")
            yield replace(row, night=night, error=str(exc))
            return
        yield replace(row, night=night, result=result)


def copies_table(rows: list[Row], images: nights.Images, is_timed: bool) -> list[str]:
    """`is_timed` compares the seconds with those of the reference on the same file system."""
    head = f"{_HEAD} / plain {_REFERENCE} |" if is_timed else _HEAD
    lines = [
        f"Least is in the second night what has changed and is not zero, {images.changed_bytes:,}"
        " bytes; else what the image has allocated.",
        "",
        head,
        "|---" * (head.count("|") - 1) + "|",
    ]
    reference = {
        (row.kind, row.night): row.result.synced_seconds
        for row in rows
        if row.result is not None and (row.where, row.tool) == (_PLAIN, _REFERENCE)
    }
    for row in rows:
        cells = [row.kind, row.where, f"`{row.tool}`", row.night, *_figures(row, images)]
        if is_timed and row.result is not None:
            base = reference.get((row.kind, row.night))
            cells.append(f"{row.result.synced_seconds / base:.2f}" if base else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _figures(row: Row, images: nights.Images) -> list[str]:
    if row.result is None:
        return [f"failed: {row.error}"]
    result = row.result
    least = images.changed_bytes if row.night == nights.CHANGED else result.image_bytes
    return [
        "yes" if result.equal else "**NO**",
        f"{result.allocated_bytes / result.image_bytes:.3f}",
        f"{result.device_bytes:,}",
        f"{result.device_bytes / least:.3f}",
        *(f"{result.counted[name]:,}" if result.counted else "" for name in nights.COUNTERS),
        f"{result.seconds:.1f}",
        f"{result.synced_seconds:.1f}",
    ]


def _fragmentation(
    work: Path, kinds: list[str], arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[str], bool]:
    rows = fragmentation.measure(
        work,
        kinds,
        arguments.only or list(fragmentation.TOOLS),
        [True] if arguments.plain else [True, False],
        fragmentation.Story(arguments.nights, arguments.mib),
    )
    is_good = all(row.equal for row in rows)
    return {"fragmentation": [asdict(row) for row in rows]}, fragmentation.table(rows), is_good


def _snapshots(work: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str], bool]:
    images = nights.images(work, arguments.content_mib << 20)
    rows = snapshots.measure(
        work,
        images,
        arguments.only or list(snapshots.TOOLS),
        [True] if arguments.plain else [True, False],
    )
    is_good = all(row.equal for row in rows)
    found = {"changed_bytes": images.changed_bytes, "snapshots": [asdict(row) for row in rows]}
    return found, snapshots.table(rows, images), is_good


if __name__ == "__main__":
    sys.exit(main())
