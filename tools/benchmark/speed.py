"""Speed in memory (tmpfs) or on file systems of a disk, each piece of work by all in turn.

In memory only the way through FUSE costs anything, so that ratios to the others tell what a change
to it is worth; what exists for speed alone must show its gain on a disk. Every figure is measured
in the same run as those that it is compared with.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tools.benchmark import figures, machine
from tools.benchmark.contenders import LL, MIRROR, PEER, Mounted, Setting
from tools.benchmark.figures import LESS, MORE, Figure, Ratio, Report

KIB, MIB = 1 << 10, 1 << 20
_SIZES = {"1 MiB": MIB, "256 KiB": 256 * KIB, "32 KiB": 32 * KIB, "4 KiB": 4 * KIB}
_NEW_DATA = "write new data, 1 MiB, MB/s"
_CREATE = "create and unlink, 1/s"
_RUNS = 5
_CPU = "CPU seconds of the daemon a GB, new data, 1 MiB"
_PEAK = "peak memory of the daemon, MiB"
_QUIET_SECONDS = 0.2
_QUIET_CPU_SECONDS = 0.002
_QUIET_TRIES = 100

Item = TypeVar("Item")
Row = dict[str, Figure]  # by contender, of every counted run


@dataclass(frozen=True, slots=True)
class Work:
    """One row. `seconds` does `amount` of the label's unit in a mount, and times it.

    `is_forgotten` says whether the kernel is to forget names and attributes before each call.
    """

    label: str
    amount: float
    seconds: Callable[[Mounted], float]
    is_forgotten: bool = False


def measure(setting: Setting) -> Report:
    rows = {} if setting.kinds else _measured(setting, setting.memory, setting.memory)
    for kind in setting.kinds:
        machine.say(f"{kind}: speed")
        with machine.new_disk(setting.disk, kind) as disk:
            found = _measured(setting, disk.point, disk.own)
        rows |= {f"{kind}: {label}": row for label, row in found.items()}
    ratios = {
        f"speed: {label} (/ {LL})": Ratio.of(
            row[MIRROR], row[LL], LESS if label.endswith((_CPU, _PEAK)) else MORE
        )
        for label, row in rows.items()
        if LL in row
    }
    return Report(dict(rows), _table(rows), ratios)


def _measured(setting: Setting, place: Path, own: Path) -> dict[str, Row]:
    """All rows, of backing folders in `place`; mounts are made in `own`."""
    rows: dict[str, Row] = {}
    with ExitStack() as stack:
        mounted = {
            name: stack.enter_context(
                contender.mounted(place / f"backing-{number}", own / f"mount-{number}")
            )
            for number, (name, contender) in enumerate(setting.contenders.items())
        }
        for work in _works(setting.quick):
            rows |= _rows(work, mounted, setting.runs or _RUNS)
    return rows


def _rows(work: Work, mounted: dict[str, Mounted], runs: int) -> dict[str, Row]:
    """The work's row, after one uncounted turn, and perhaps one of what it cost the daemons."""

    def once(name: str) -> tuple[float, float]:
        # What one has left to be written to a disk must not fall into the next one's time.
        machine.run("sync", "-f", mounted[name].backing)
        if work.is_forgotten:
            _forget_names(list(mounted.values()))
        begun = mounted[name].cpu_seconds()
        seconds = work.seconds(mounted[name])
        return work.amount / seconds, mounted[name].cpu_seconds() - begun

    taken = figures.in_turns(list(mounted), runs, once, warm_ups=1)
    rows = {work.label: {at: Figure(tuple(rate for rate, _ in one)) for at, one in taken.items()}}
    if work.label == _NEW_DATA:
        gigabytes = work.amount / 1e3
        rows[_CPU] = {at: Figure(tuple(s / gigabytes for _, s in one)) for at, one in taken.items()}
    if work.label == _CREATE:  # the last with few files: memory grows with known ones
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
    names = list(next(iter(rows.values())))
    over = [name for name in (LL, PEER) if name in names]
    cells = (
        [label, *(row[name].spelled() for name in names)]
        + [row[MIRROR].over(row[name]).spelled(2) for name in over]
        for label, row in rows.items()
    )
    return figures.table(["work", *names, *(f"{MIRROR} / {name}" for name in over)], cells)


def _works(quick: bool) -> Iterable[Work]:
    for name, size in _SIZES.items():
        total, data = _total_bytes(size, quick), os.urandom(size)
        contents = {"new data": data, "equal data": data, "zeros": bytes(size)}
        for kind, content in contents.items():
            write = partial(_write, total, content, is_fresh=kind != "equal data")
            yield Work(f"write {kind}, {name}, MB/s", total / 1e6, write)
    read_bytes = _total_bytes(MIB, quick)
    files, listed = (250, 2500) if quick else (1000, 10_000)
    yield Work("read, 1 MiB, MB/s", read_bytes / 1e6, lambda mount: _read(mount, read_bytes))
    yield Work("stat, 1/s", files, lambda mount: _stat(mount.path / "many", files))
    yield Work(_CREATE, files, lambda mount: _create_and_unlink(mount.path, files))
    label = f"list {listed:,} files with attributes, 1/s"
    yield Work(label, listed, lambda mount: _list(mount.path / "listed", listed), is_forgotten=True)


def _total_bytes(size: int, quick: bool) -> int:
    """What is written in requests of `size` bytes."""
    full = 256 * MIB if size >= 256 * KIB else 32 * MIB if size > 4 * KIB else 8 * MIB
    return full // 4 if quick else full


def _each(call: Callable[[Item], object], items: Iterable[Item]) -> float:
    """Seconds that a call takes with all items."""
    begun = time.perf_counter()
    for item in items:
        call(item)
    return time.perf_counter() - begun


def _write(total: int, content: bytes, mount: Mounted, is_fresh: bool) -> float:
    """`content` over and over, into a new file or the one that is there."""
    path = mount.path / "bench.dat"
    if is_fresh:
        path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    seconds = _each(lambda offset: os.pwrite(fd, content, offset), range(0, total, len(content)))
    os.close(fd)
    return seconds


def _read(mount: Mounted, total: int) -> float:
    """A file of data, made once. The mount has nothing of it in its cache, the folder below all."""
    path = mount.path / "read.dat"
    if not path.exists():
        path.write_bytes(os.urandom(MIB) * (total // MIB))
    machine.make_cold(path)
    machine.read_through(mount.backing / path.name)
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        return _each(lambda offset: os.pread(fd, MIB, offset), range(0, total, MIB))


def _stat(many: Path, count: int) -> float:
    paths = _populated(many, count)
    time.sleep(1.1)  # attributes hold for a second
    return _each(os.stat, paths)


def _create_and_unlink(folder: Path, count: int) -> float:
    def create_and_unlink(path: str) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        os.unlink(path)

    return _each(create_and_unlink, [f"{folder}/new-{number}" for number in range(count)])


def _list(many: Path, count: int) -> float:
    """What `ls -l` does. In the first turn, which does not count, the kernel knows all files."""
    _populated(many, count)
    with os.scandir(many) as entries:
        return _each(lambda entry: entry.stat(follow_symlinks=False), entries)


def _populated(many: Path, count: int) -> list[str]:
    """Paths of empty files in a folder that is made once."""
    paths = [f"{many}/{number}" for number in range(count)]
    if not many.exists():
        many.mkdir()
        for path in paths:
            Path(path).touch()
    return paths
