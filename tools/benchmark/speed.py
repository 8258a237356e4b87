"""Speed on memory-speed backing (tmpfs), every piece of work by every contender in turn.

There only the way through FUSE costs anything, so that ratios to the others tell what a change to
it is worth. Every figure is measured in the same run as those that it is compared with.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from tools.benchmark import figures, workloads
from tools.benchmark.contenders import LL, MIRROR, NULL, PEER, Mounted, Setting
from tools.benchmark.figures import LESS, MORE, Figure, Ratio, Report
from tools.benchmark.workloads import Work

_RUNS = 5
_CPU = "CPU seconds of the daemon a GB, new data, 1 MiB"
_PEAK = "peak memory of the daemon, MiB"
# What mirrorfs is held against, where that is not passthrough_ll.
_REFERENCES = {workloads.ZEROS_OVER_HOLE: NULL}
_QUIET_SECONDS = 0.2
_QUIET_CPU_SECONDS = 0.002
_QUIET_TRIES = 100

Row = dict[str, Figure]  # by contender, of every counted run


def measure(setting: Setting) -> Report:
    rows: dict[str, Row] = {}
    with ExitStack() as stack:
        mounted: dict[str, Mounted] = {}
        for number, (name, contender) in enumerate(setting.contenders.items()):
            backing, point = (setting.memory / f"{kind}-{number}" for kind in ("backing", "mount"))
            mounted[name] = stack.enter_context(contender.mounted(backing, point))
        for work in workloads.rows(setting.quick):
            rows |= _rows(work, mounted, setting.runs or _RUNS)
    ratios: dict[str, Ratio] = {}
    for label, row in rows.items():
        reference = _REFERENCES.get(label, LL)
        if reference in row:
            better = LESS if label in {_CPU, _PEAK} else MORE
            ratios[f"speed: {label} (/ {reference})"] = Ratio.of(
                row[MIRROR], row[reference], better
            )
    return Report(dict(rows), _table(rows), ratios)


def _rows(work: Work, mounted: dict[str, Mounted], runs: int) -> dict[str, Row]:
    """The work's row, after one uncounted turn, and perhaps one of what it cost the daemons."""

    def once(name: str) -> tuple[float, float]:
        if work.is_forgotten:
            _forget_names(list(mounted.values()))
        begun = mounted[name].cpu_seconds()
        seconds = work.seconds(mounted[name].path)
        return work.amount / seconds, mounted[name].cpu_seconds() - begun

    taken = figures.in_turns(list(mounted), runs, once, warm_ups=1)
    rows = {work.label: {at: Figure(tuple(rate for rate, _ in one)) for at, one in taken.items()}}
    if work.label == workloads.NEW_DATA:
        gigabytes = work.amount / 1e3
        rows[_CPU] = {at: Figure(tuple(s / gigabytes for _, s in one)) for at, one in taken.items()}
    if work.label == workloads.CREATE:  # the last with few files: memory grows with known ones
        rows[_PEAK] = {at: Figure((one.memory_mib("VmHWM"),) * runs) for at, one in mounted.items()}
    return rows


def _forget_names(mounted: list[Mounted]) -> None:
    """Let the kernel forget all names and attributes that are not in use.

    It tells the FUSE daemons of each, which must not fall into the next measurement: returns when
    all of them are idle again.
    """
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    used = -1.0
    for _ in range(_QUIET_TRIES):
        before, used = used, sum(one.cpu_seconds() for one in mounted)
        if used - before < _QUIET_CPU_SECONDS:
            return
        time.sleep(_QUIET_SECONDS)


def _table(rows: dict[str, Row]) -> list[str]:
    """Median (smallest-largest) of each contender; ratios are medians of those of single runs."""
    names = list(rows[_PEAK])
    over = [name for name in (LL, NULL, PEER) if name in names]
    cells = (
        [label, *(row[name].spelled() for name in names)]
        + [row[MIRROR].over(row[name]).spelled(2) for name in over]
        for label, row in rows.items()
    )
    return figures.table(["work", *names, *(f"{MIRROR} / {name}" for name in over)], cells)
