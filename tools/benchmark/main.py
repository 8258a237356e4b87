"""Run the benchmark, and write one JSON and one readable table."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from tools.benchmark import (
    against,
    contenders,
    device,
    digests,
    fairness,
    figures,
    growth,
    nightly,
    speed,
)
from tools.benchmark.contenders import MIRROR, PEER, Setting
from tools.benchmark.machine import KINDS, TMPFS, say, scratch

_PARTS = {
    "speed": speed.measure,
    "device": device.measure,
    "memory": growth.measure_memory,
    "nightly": nightly.measure,
    "growth": growth.measure,
    "fairness": fairness.measure,
    "digests": digests.measure,
}
_USUAL = ("speed", "device", "memory")  # minutes; the others take longer
_MEMORY = Path("/dev/shm")
_BUSY_SHARE = 0.25


def main() -> int:
    parser = figures.parser("tools/bench", __doc__, [*KINDS, TMPFS])
    parser.set_defaults(json=Path("bench.json"))
    parser.epilog = (
        f"Without --fs speed is measured on {', '.join(speed.KINDS)}, nightly on xfs, device on "
        f"{', '.join(KINDS)}, digests on {', '.join(digests.KINDS)}; tmpfs is for speed only. "
        "Exit code 1 if --against finds a ratio that is worse by more than 10 %, or if something "
        "could not be measured."
    )
    add = parser.add_argument
    runs = "counted runs: of speed after a warm-up (5, of trees 3), of others (3; with --quick 1)"
    add("--runs", "--repeat", type=int, default=0, metavar="N", help=runs)
    add("--quick", action="store_true", help="a quarter of the data")
    usual = f"repeatable; without it {', '.join(_USUAL)}"
    add("--only", action="append", choices=list(_PARTS), help=usual)
    add("--alone", action="store_true", help="mirrorfs and the peer only")
    speeds = "speeds to which the disk is held: of nightly (150,500), of digests (150)"
    add("--disk-mb-s", type=figures.words, default=[], metavar="N[,N]", help=speeds)
    sizes = f"size of the image of digests ({digests.IMAGE_MIB})", "of the files in it"
    add("--image-mib", type=int, default=0, metavar="N", help=sizes[0])
    add(
        "--content-mib",
        type=int,
        default=0,
        metavar="N",
        help=f"{sizes[1]} ({digests.CONTENT_MIB})",
    )
    add("--against", type=Path, metavar="OLD.json", help="compare the ratios")
    words = parser.parse_args()

    old = against.load(words.against, words.quick) if words.against else None
    is_busy = os.getloadavg()[0] > _BUSY_SHARE * (os.cpu_count() or 1)
    if is_busy:
        say(f"the machine is busy (load {os.getloadavg()[0]:.1f}); ratios will spread")
    result: dict[str, Any] = {"schema": against.SCHEMA, "machine": platform.platform()}
    result |= {"quick": words.quick, "busy": is_busy}
    ratios, lines, is_good = dict[str, figures.Ratio](), list[str](), True
    with scratch(words.folder) as disk, scratch(_MEMORY) as memory:
        known = contenders.known(words.peer)
        chosen = {at: known[at] for at in known if not words.alone or at in {MIRROR, PEER}}
        speeds_mb_s = [float(speed) for speed in words.disk_mb_s]
        mib = words.image_mib, words.content_mib
        setting = Setting(
            chosen, disk, memory, words.quick, words.runs, words.fs, speeds_mb_s, *mib
        )
        for name in words.only or _USUAL:
            report = _PARTS[name](setting)
            result[name] = report.data
            ratios |= report.ratios
            lines += [*report.lines, ""]
            is_good &= report.is_good
    if old is not None:
        changes = against.compare(old, ratios)
        lines += against.report(changes, against.remarks(old, ratios, is_busy))
        is_good &= not any(change.is_worse for change in changes)
    figures.publish(result | {"ratios": ratios}, lines, words.json, words.markdown)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
