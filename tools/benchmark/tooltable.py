"""Run every tool's copies, or many nights of small changes, and write one JSON and one table."""

import argparse
import platform
import random
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from mirrorfs.cli import demo_image
from tools.benchmark import contenders, copies, figures, machine, nights
from tools.benchmark.contenders import MIRROR, PEER, PLAIN, Contender
from tools.benchmark.figures import Report

_REFERENCE = "rsync -aS"  # into the plain folder: what a night takes without us
_FRAGMENTING = ["rsync -a", "rsync -a --inplace", "cp"]
_BLOCK = 4096
_SHARE = 100  # one block in so many changes each night of --fragmentation


def main() -> int:
    parser = figures.parser("tools/tooltable", __doc__)
    parser.epilog = "Exit code 1 if a copy is not equal or a tool failed."
    add = parser.add_argument
    add("--fragmentation", action="store_true", help="extents after many nights")
    add("--only", action="append", choices=list(copies.TOOLS), metavar="TOOL", help="repeatable")
    add("--plain", action="store_true", help="the plain folder only")
    add("--disk-mb-s", type=float, metavar="N", help="hold the disk to N MB/s")
    add("--content-mib", type=int, default=demo_image.CONTENT_BYTES >> 20)
    add("--nights", type=int, default=30, help="of --fragmentation (30)")
    add("--mib", type=int, default=512, help="size for --fragmentation (512)")
    words = parser.parse_args()
    with machine.scratch(words.folder) as work:
        report = (_fragmentation if words.fragmentation else _copies)(work, words)
    result = {"schema": 2, "machine": platform.platform(), **report.data}
    figures.publish(result, report.lines, words.json, words.markdown)
    return 0 if report.is_good else 1


def _copies(work: Path, words: argparse.Namespace) -> Report:
    tools: list[str] = words.only or list(copies.TOOLS)
    pairs = [(at, tool) for tool in tools for at in ([PLAIN] if words.plain else [MIRROR, PEER])]
    if words.disk_mb_s is not None and (PLAIN, _REFERENCE) not in pairs:
        pairs.insert(0, (PLAIN, _REFERENCE))
    with ExitStack() as stack:
        ssh = stack.enter_context(copies.sshd(work)) if "scp" in tools else ""
        made = copies.make(work, words.content_mib << 20)
        plan = nights.Plan(pairs, contenders.known(words.peer), made, 1, words.disk_mb_s, ssh)
        found = {kind: nights.measure(work, kind, plan) for kind in words.fs or machine.KINDS}
    lines = nights.lines(found, made, [] if words.disk_mb_s is None else [f"{PLAIN}, {_REFERENCE}"])
    data = {**made.data, "disk_mb_s": words.disk_mb_s, "copies": found}
    return Report(data, lines, is_good=nights.is_good(found))


def _fragmentation(work: Path, words: argparse.Namespace) -> Report:
    known = contenders.known(words.peer)
    counted = sorted({0, 1, *range(10, words.nights + 1, 10), words.nights})
    rows = [
        [kind, f"`{tool}`", at, *_fragments(work, kind, known[at], tool, words.mib, counted)]
        for kind in words.fs or machine.KINDS
        for tool in words.only or _FRAGMENTING
        for at in ([PLAIN] if words.plain else [PLAIN, MIRROR, PEER])
        if at in known
    ]
    titles = ["file system", "tool", "where", *(f"night {night}" for night in counted)]
    titles += ["cold reading, seconds"]
    return Report({"fragmentation": rows}, figures.table(titles, rows))


def _fragments(
    work: Path, kind: str, contender: Contender, tool: str, mib: int, counted: list[int]
) -> list[str]:
    """Extents of the file below after some nights, and seconds to read it. Raises CopyError."""
    machine.say(f"{kind}: {contender.name}, {tool}, {counted[-1]} nights")
    chance = random.Random(1)  # the same nights for all
    source, found = work / "dense.img", list[str]()
    source.write_bytes(b"".join(chance.randbytes(1 << 20) for _ in range(mib)))
    with machine.new_disk(work, kind, size_gib=4 + 3 * mib // 1024) as disk:
        copy = disk.backing / source.name
        with contender.mounted(disk.backing, disk.own / "mount") as mounted:
            for night in range(counted[-1] + 1):
                if night:
                    _change(source, chance)
                copies.measured(disk, mounted, tool, source)
                if night in counted:
                    found += re.findall(r"(\d+) extents? found", machine.run("filefrag", copy))
        machine.make_cold(copy, disk.image)  # the loop device's own file as well
        begun = time.perf_counter()
        machine.read_through(copy)
        return [*found, f"{time.perf_counter() - begun:.2f}"]


def _change(source: Path, chance: random.Random) -> None:
    before_ns, blocks = source.stat().st_mtime_ns, source.stat().st_size // _BLOCK
    with source.open("r+b") as file:
        for block in chance.sample(range(blocks), blocks // _SHARE):
            file.seek(block * _BLOCK)
            file.write(chance.randbytes(_BLOCK))
    copies.set_later(source, before_ns)


if __name__ == "__main__":
    sys.exit(main())
