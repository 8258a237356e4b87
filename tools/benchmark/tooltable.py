"""Run every tool's copies, and write one JSON and one table."""

import argparse
import platform
import sys
from contextlib import ExitStack
from pathlib import Path

from mirrorfs.cli import demo_image
from tools.benchmark import contenders, copies, figures, machine, nights
from tools.benchmark.contenders import MIRROR, PEER, PLAIN
from tools.benchmark.figures import Report

_REFERENCE = "rsync -aS"  # into the plain folder: what a night takes without us


def main() -> int:
    parser = figures.parser("tools/tooltable", __doc__)
    parser.epilog = "Exit code 1 if a copy is not equal or a tool failed."
    add = parser.add_argument
    add("--only", action="append", choices=list(copies.TOOLS), metavar="TOOL", help="repeatable")
    add("--plain", action="store_true", help="the plain folder only")
    add("--disk-mb-s", type=float, metavar="N", help="hold the disk to N MB/s")
    add("--content-mib", type=int, default=demo_image.CONTENT_BYTES >> 20)
    words = parser.parse_args()
    with machine.scratch(words.folder) as work:
        report = _copies(work, words)
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


if __name__ == "__main__":
    sys.exit(main())
