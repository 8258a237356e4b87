"""Run the benchmark, and write one JSON and one readable table."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.benchmark import against, cleaning

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.benchmark.figures import Ratio

_MEMORY = Path("/dev/shm")
_DEFAULT_RUNS = {"speed": 5, "nightly": 3}
_DEFAULT_KINDS = {"device": "ext4,xfs,btrfs", "nightly": "xfs"}
_BUSY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class MountSpec:
    """What a part is measured with. `disk` and `memory` are folders that are removed at the end,
    the second on a tmpfs; speeds in MB/s.
    """

    arguments: argparse.Namespace
    disk: Path
    memory: Path

    @property
    def is_quick(self) -> bool:
        return bool(self.arguments.quick)

    def runs(self, part: str) -> int:
        asked: int | None = self.arguments.runs
        return asked or (1 if part == "nightly" and self.is_quick else _DEFAULT_RUNS[part])

    def kinds(self, part: str) -> list[str]:
        return str(self.arguments.fs or _DEFAULT_KINDS[part]).split(",")


@dataclass(frozen=True, slots=True)
class Part:
    """One choice of --only. Modules are loaded when they are wanted."""

    measure: Callable[[MountSpec], Any]
    table: Callable[[Any], list[str]]
    ratios: Callable[[Any], dict[str, Ratio]] | None = None


def _speed() -> Part:
    from tools.benchmark import speed

    return Part(
        lambda job: speed.measure(job.memory, job.runs("speed"), job.is_quick),
        speed.table,
        speed.ratios,
    )


def _device() -> Part:
    from tools.benchmark import device

    return Part(
        lambda job: device.measure(tuple(job.kinds("device")), job.disk),
        device.table,
        device.ratios,
    )


def _memory() -> Part:
    from tools.benchmark import device

    return Part(lambda job: device.memory(job.disk), device.memory_table)


def _nightly() -> Part:
    from tools.benchmark import nightly

    def measure(job: MountSpec) -> dict[str, Any]:
        speeds: list[float] = job.arguments.disk_mb_s
        plan = nightly.Plan(job.kinds("nightly"), speeds, job.runs("nightly"), job.is_quick)
        return nightly.measure(job.memory, plan)

    return Part(measure, nightly.table, nightly.ratios)


def _module(name: str) -> Part:
    """A module with `measure(folder, quick)` and `table(found)`, and perhaps `ratios(found)`."""
    full = f"tools.benchmark.{name}"
    if importlib.util.find_spec(full) is None:
        raise SystemExit(f"tools/bench: --only {name}: there is no tools/benchmark/{name}.py yet")
    module = importlib.import_module(full)
    return Part(
        lambda job: module.measure(job.disk, job.is_quick),
        module.table,
        getattr(module, "ratios", None),
    )


_PARTS: dict[str, Callable[[], Part]] = {
    "speed": _speed,
    "device": _device,
    "memory": _memory,
    "nightly": _nightly,
    "growth": lambda: _module("growth"),
    "fairness": lambda: _module("fairness"),
}
_USUAL = ("speed", "device", "memory")  # minutes; the others take longer, and are asked for


def main() -> int:
    arguments = _parser().parse_args()
    old = against.load(arguments.against) if arguments.against else None
    if old is not None:
        against.require_alike(old, arguments.quick)
    parts = {name: _PARTS[name]() for name in arguments.only or _USUAL}
    _require_places(arguments.folder, _MEMORY)
    result: dict[str, Any] = {
        "schema": against.SCHEMA,
        "machine": platform.platform(),
        "quick": arguments.quick,
        "runs": arguments.runs,
        "busy": _is_busy(),
        "ratios": {},
    }
    text: list[str] = []
    with cleaning.scratches(arguments.folder, _MEMORY) as (disk, memory):
        job = MountSpec(arguments, disk, memory)
        for name, part in parts.items():
            found = result[name] = part.measure(job)
            text += ["", *part.table(found)] if text else part.table(found)
            for label, ratio in part.ratios(found).items() if part.ratios else ():
                result["ratios"][label] = ratio.as_json()
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    is_worse = False
    if old is not None:
        changes = against.compare(old, result)
        text += against.report(changes, against.remarks(old, result))
        is_worse = any(change.is_worse for change in changes)
    print("\n".join(text))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(text) + "\n")
    return 1 if is_worse else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description=__doc__,
        epilog="Exit code 1 if --against finds a ratio that is worse by more than 10 %, or if "
        "something could not be measured.",
    )
    parser.add_argument(
        "--runs",
        "--repeat",
        type=_positive,
        metavar="N",
        help="counted runs: of speed after a warm-up (5), of nightly (3; with --quick 1)",
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the data")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(_PARTS),
        help=f"repeatable; without it {', '.join(_USUAL)}",
    )
    parser.add_argument(
        "--fs", help="file systems on the loop device (device: ext4,xfs,btrfs; nightly: xfs)"
    )
    parser.add_argument(
        "--disk-mb-s",
        type=_speeds,
        default=[150.0, 500.0],
        metavar="N[,N]",
        help="speeds to which the disk of nightly is held: a hard disk, an SSD (150,500)",
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="compare the ratios")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    parser.add_argument("--markdown", type=Path)
    return parser


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _speeds(words: str) -> list[float]:
    try:
        speeds = [float(word) for word in words.split(",")]
    except ValueError:
        speeds = []
    if not speeds or min(speeds) <= 0:
        raise argparse.ArgumentTypeError("must be numbers above 0, with a comma between them")
    return speeds


def _require_places(*folders: Path) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise SystemExit(f"tools/bench: {folder}: no such folder")


def _is_busy() -> bool:
    """Whether others use the machine before we begin; says so."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    is_busy = load > _BUSY_SHARE * cores
    if is_busy:
        print(
            f"tools/bench: note: the machine is busy (load {load:.1f} on {cores} cores); ratios"
            " will spread",
            file=sys.stderr,
        )
    return is_busy


if __name__ == "__main__":
    sys.exit(main())
