"""Speed on memory-speed backing (tmpfs), every piece of work by every peer in turn.

There only the way through FUSE costs anything, so that ratios to the other peers tell what a change
to it is worth. Every figure is measured in the same run as those that it is compared with.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tools.benchmark import figures, peers, workloads
from tools.benchmark.figures import LESS, MORE, Figure, Ratio

if TYPE_CHECKING:
    from pathlib import Path

    from tools.benchmark.peers import Peer
    from tools.benchmark.workloads import Work

_CPU = "CPU seconds of the daemon a GB, new data, 1 MiB"
_CPU_OF = "write new data, 1 MiB, MB/s"
_PEAK = "peak memory of the daemon, MiB"
# What mirrorfs is held against, where that is not passthrough_ll.
_REFERENCES = {workloads.ZEROS_OVER_HOLE: peers.NULL}
# Neighbours in time are disturbed alike: mirrorfs between those that it is held against.
_ORDER = (
    peers.PLAIN,
    peers.BINDFS,
    peers.LL_XATTRS,
    peers.LL,
    peers.MIRROR,
    peers.NULL,
    peers.MIRROR_OFF,
)
_SHOWN = (peers.LL, peers.NULL)  # references with a column of their own

Row = dict[str, Figure]


def measure(work: Path, runs: int, quick: bool) -> dict[str, Any]:
    """Rows by label: for each peer the figure of every counted run. `work` lies on a tmpfs."""
    with ExitStack() as stack:
        found = _mounted(work, stack)
        rows: dict[str, Row] = {}
        for job in workloads.first_rows(quick):
            rows.update(_row(job, found, runs, quick))
        # Before the rows with many files: memory grows with the files that are known.
        rows[_PEAK] = {peer.name: Figure((peer.peak_mib(),) * runs) for peer in found}
        for job in workloads.later_rows(quick):
            rows.update(_row(job, found, runs, quick))
    return {
        label: {name: figure.as_json() for name, figure in row.items()}
        for label, row in rows.items()
    }


def _mounted(work: Path, stack: ExitStack) -> list[Peer]:
    (work / "plain").mkdir()
    enter = stack.enter_context
    return [
        peers.Peer(peers.PLAIN, work / "plain"),
        enter(peers.passthrough_ll(work, peers.LL, work / "b-ll", work / "ll")),
        enter(peers.passthrough_ll(work, peers.LL_XATTRS, work / "b-lx", work / "lx", "xattr")),
        enter(peers.bindfs(peers.BINDFS, work / "b-b", work / "b")),
        enter(peers.null(peers.NULL, work / "null")),
        enter(peers.mirror(peers.MIRROR, work / "b-m", work / "m")),
        enter(
            peers.mirror(peers.MIRROR_OFF, work / "b-o", work / "o", "zeros=keep,unchanged=write")
        ),
    ]


def _row(job: Work, found: list[Peer], runs: int, quick: bool) -> dict[str, Row]:
    """The work's row, after one uncounted turn; with it that of the daemons' CPU time, for one."""
    by_name = {peer.name: peer for peer in found}
    values: dict[str, list[float]] = {name: [] for name in by_name}
    cpu: dict[str, list[float]] = {name: [] for name in by_name}
    for turn in range(runs + 1):
        for name in figures.interleaved(_ORDER, turn):
            peer = by_name[name]
            if job.is_forgotten:
                workloads.forget_names(found)
            begun = peer.cpu_seconds()
            value = job.call(peer.path)
            if turn:
                values[name].append(value)
                cpu[name].append(peer.cpu_seconds() - begun)
    rows = {job.label: {name: Figure(tuple(taken)) for name, taken in values.items()}}
    if job.label == _CPU_OF:
        gigabytes = workloads.total_bytes(workloads.MIB, quick) / 1e9
        rows[_CPU] = {
            name: Figure(tuple(seconds / gigabytes for seconds in taken))
            for name, taken in cpu.items()
        }
    return rows


def ratios(found: dict[str, Any]) -> dict[str, Ratio]:
    """By row: mirrorfs over its reference."""
    result: dict[str, Ratio] = {}
    for label, cells in found.items():
        reference = _REFERENCES.get(label, peers.LL)
        better = LESS if label in {_CPU, _PEAK} else MORE
        figure, other = (figures.from_json(cells[name]) for name in (peers.MIRROR, reference))
        result[f"speed: {label} (/ {reference})"] = Ratio.of(figure, other, better)
    return result


def table(found: dict[str, Any]) -> list[str]:
    """Median (smallest-largest) of each peer; ratios are medians of the ratios of single runs."""
    names = list(next(iter(found.values())))
    over = [f"{peers.MIRROR} / {name}" for name in _SHOWN]
    lines = figures.head("work", *names, *over)
    for label, cells in found.items():
        row = {name: figures.from_json(cell) for name, cell in cells.items()}
        compared = [row[peers.MIRROR].over(row[name]).spelled(2) for name in _SHOWN]
        lines.append(figures.row(label, *(row[name].spelled() for name in names), *compared))
    return lines
