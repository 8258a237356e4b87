"""Speed on file systems on loop devices in memory, and on tmpfs, each piece of work by all in turn.

On tmpfs only the way through FUSE costs anything, so that ratios to the others tell what a change
to it is worth; on ext4 and xfs the file system below has its share, as it has for a user, and no
disk blurs the figures. Every figure is measured in the same run as those it is compared with.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.benchmark import figures, machine
from tools.benchmark.contenders import LL, MIRROR, PEER, Contender, Mounted, Setting
from tools.benchmark.figures import LESS, MORE, Figure, Ratio, Report
from tools.benchmark.machine import TMPFS
from tools.benchmark.works import LAST_WITH_FEW_FILES, Tree, Work, works

KINDS = ("ext4", "xfs", TMPFS)
_DISK_GIB = 6  # what all together write and remove; it is memory
_QUIET_SECONDS = 0.05
_QUIET_CPU_SECONDS = 0.0005
_QUIET_TRIES = 400


@dataclass(frozen=True, slots=True)
class Row:
    """By contender, of every counted run."""

    figures: dict[str, Figure]
    better: str = MORE

    def over(self, name: str) -> Figure:
        return self.figures[MIRROR].over(self.figures[name])

    def ratio(self) -> Ratio:
        return Ratio.of(self.figures[MIRROR], self.figures[LL], self.better)


Rows = dict[str, Row]


def measure(setting: Setting) -> Report:
    rows: Rows = {}
    with machine.scratch(setting.memory) as own:
        tree = Tree.made(own, setting.quick)
        for kind in setting.kinds or KINDS:
            machine.say(f"{kind}: speed")
            with _place(setting.memory, kind) as (place, beside):
                found = _measured(setting, place, beside, tree)
            rows |= {f"{kind}: {label}": row for label, row in found.items()}
    data = {label: row.figures for label, row in rows.items()}
    return Report(data, table(rows), ratios(rows))


def ratios(rows: Rows) -> dict[str, Ratio]:
    return {
        f"speed: {label} (/ {LL})": row.ratio() for label, row in rows.items() if LL in row.figures
    }


def table(rows: Rows) -> list[str]:
    """Median (smallest-largest) of each contender; ratios are medians of those of single runs."""
    names = list(next(iter(rows.values())).figures)
    over = [name for name in (LL, PEER) if name in names]
    cells = (
        [label if row.better == MORE else f"{label} (less is better)"]
        + [row.figures[name].spelled() for name in names]
        + [row.over(name).spelled(2) for name in over]
        for label, row in rows.items()
    )
    return figures.table(["work", *names, *(f"{MIRROR} / {name}" for name in over)], cells)


@contextmanager
def _place(memory: Path, kind: str) -> Iterator[tuple[Path, Path]]:
    """A folder on a file system of that kind, and one beside it for mounts."""
    if kind == TMPFS:
        with machine.scratch(memory) as own:
            yield own, own
    else:
        with machine.new_disk(memory, kind, _DISK_GIB) as disk:
            yield disk.point, disk.own


def _measured(setting: Setting, place: Path, own: Path, tree: Tree) -> Rows:
    """All rows, of backing folders in `place`; mounts are made in `own`."""
    rows: Rows = {}
    with ExitStack() as stack:

        def mounted(number: int, contender: Contender) -> Mounted:
            folders = place / f"backing-{number}", own / f"mount-{number}"
            return stack.enter_context(contender.mounted(*folders))

        known = {
            name: mounted(number, contender)
            for number, (name, contender) in enumerate(setting.contenders.items())
        }
        for work in works(tree, setting.quick):
            rows |= rows_of(work, known, setting.runs or work.runs)
    return rows


def rows_of(work: Work, mounted: dict[str, Mounted], runs: int) -> Rows:
    """The work's row, after one uncounted turn, and perhaps one of what it cost the daemons."""

    def once(name: str) -> tuple[float, float]:
        one = mounted[name]
        with work.prepare(one) as timed:
            # What is left to be written to a disk must not fall into the time of what comes next.
            machine.run("sync", "-f", one.backing)
            if work.is_forgotten:
                _forget_names(list(mounted.values()))
            begun = _cpu_seconds_when_idle([one]) if work.pieces else 0.0
            seconds = timed()
            used = _cpu_seconds_when_idle([one]) - begun if work.pieces else 0.0
        return work.amount / seconds, 1e6 * used / max(work.pieces, 1)

    taken = figures.in_turns(list(mounted), runs, once, warm_ups=1)
    rows = {
        work.label: Row({at: Figure(tuple(rate for rate, _ in one)) for at, one in taken.items()})
    }
    if work.pieces:
        label = (
            f"{work.label.rpartition(', ')[0]}, CPU of the daemon, \N{MICRO SIGN}s a {work.piece}"
        )
        spent = {at: Figure(tuple(spent for _, spent in one)) for at, one in taken.items()}
        rows[label] = Row(spent, LESS)
    if work.label == LAST_WITH_FEW_FILES:
        peaks = {at: Figure((one.memory_mib("VmHWM"),) * runs) for at, one in mounted.items()}
        rows["peak memory of the daemon, MiB"] = Row(peaks, LESS)
    return rows


def _forget_names(mounted: list[Mounted]) -> None:
    """Let the kernel forget all names and attributes that are not in use.

    It tells the FUSE daemons of each, which must not fall into the next measurement.
    """
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    _cpu_seconds_when_idle(mounted)


def _cpu_seconds_when_idle(mounted: list[Mounted]) -> float:
    """What the daemons have used, as soon as they use no more: some work goes on after a call."""
    used = sum(one.cpu_seconds() for one in mounted)
    for _ in range(_QUIET_TRIES if any(one.pid for one in mounted) else 0):
        time.sleep(_QUIET_SECONDS)
        before, used = used, sum(one.cpu_seconds() for one in mounted)
        if used - before < _QUIET_CPU_SECONDS:
            break
    return used
