"""Speed on memory-speed backing (tmpfs), every piece of work by every contender in turn.

There only the way through FUSE costs anything, so that ratios to the others tell what a change to
it is worth. Every figure is measured in the same run as those that it is compared with.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tools.benchmark import figures
from tools.benchmark.contenders import LL, MIRROR, NULL, PEER, Mounted, Setting
from tools.benchmark.figures import LESS, MORE, Figure, Ratio, Report

KIB, MIB = 1 << 10, 1 << 20
_SIZES = {"1 MiB": MIB, "256 KiB": 256 * KIB, "32 KiB": 32 * KIB, "4 KiB": 4 * KIB}
_NEW_DATA, _ZEROS_OVER_HOLE = "write new data, 1 MiB, MB/s", "write zeros over a hole, 1 MiB, MB/s"
_CREATE = "create and unlink, 1/s"
_WRITERS, _SEEKS, _RANDOM_READS = 4, 5000, 4000
_RUNS = 5
_CPU = "CPU seconds of the daemon a GB, new data, 1 MiB"
_PEAK = "peak memory of the daemon, MiB"
# What mirrorfs is held against, where that is not passthrough_ll.
_REFERENCES = {_ZEROS_OVER_HOLE: NULL}
_QUIET_SECONDS = 0.2
_QUIET_CPU_SECONDS = 0.002
_QUIET_TRIES = 100

Item = TypeVar("Item")
Row = dict[str, Figure]  # by contender, of every counted run


@dataclass(frozen=True, slots=True)
class Work:
    """One row. `seconds` does `amount` of the label's unit in a folder, and times it.

    `is_forgotten` says whether the kernel is to forget names and attributes before each call.
    """

    label: str
    amount: float
    seconds: Callable[[Path], float]
    is_forgotten: bool = False


def measure(setting: Setting) -> Report:
    rows: dict[str, Row] = {}
    with ExitStack() as stack:
        mounted: dict[str, Mounted] = {}
        for number, (name, contender) in enumerate(setting.contenders.items()):
            backing, point = (setting.memory / f"{kind}-{number}" for kind in ("backing", "mount"))
            mounted[name] = stack.enter_context(contender.mounted(backing, point))
        for work in _works(setting.quick):
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
    names = list(rows[_PEAK])
    over = [name for name in (LL, NULL, PEER) if name in names]
    cells = (
        [label, *(row[name].spelled() for name in names)]
        + [row[MIRROR].over(row[name]).spelled(2) for name in over]
        for label, row in rows.items()
    )
    return figures.table(["work", *names, *(f"{MIRROR} / {name}" for name in over)], cells)


def _works(quick: bool) -> list[Work]:
    total, new, zeros = _total_bytes(MIB, quick), os.urandom(MIB), bytes(MIB)
    megabytes, places = total / 1e6, range(0, total, 4 * KIB)
    some = random.Random(1).sample(places, _RANDOM_READS)
    files, listed = (250, 2500) if quick else (1000, 10_000)
    return [
        *_writing_rows(quick),
        Work("read, 1 MiB, MB/s", megabytes, lambda at: _read(_data(at, total))),
        Work("lseek SEEK_DATA, 1/s", _SEEKS, lambda at: _seek(_data(at, total))),
        # After the pause attributes have expired that hold for a second.
        Work("stat, 1/s", files, lambda at: _stat(at, files, pause_seconds=1.1)),
        Work(_CREATE, files, lambda at: _create_and_unlink(at, files)),
        Work(_ZEROS_OVER_HOLE, megabytes, lambda at: _write(_hole(at, total), total, zeros)),
        Work("four writers, new data, 1 MiB, MB/s", megabytes, lambda at: _four(at, total, new)),
        Work("read again, 1 MiB, MB/s", megabytes, lambda at: _read_again(_data(at, total))),
        Work("read a hole, 1 MiB, MB/s", megabytes, lambda at: _read(_hole(at, total))),
        Work("random reads, 4 KiB, 1/s", _RANDOM_READS, lambda at: _read(_data(at, total), some)),
        Work("stat, names forgotten, 1/s", files, lambda at: _stat(at, files), True),
        Work(f"list {listed:,} files with attributes, 1/s", listed, partial(_list, listed), True),
    ]


def _writing_rows(quick: bool) -> Iterable[Work]:
    for name, size in _SIZES.items():
        total, data = _total_bytes(size, quick), os.urandom(size)
        contents = {"new data": data, "equal data": data, "zeros": bytes(size)}
        for kind, content in contents.items():
            write = partial(_write_file, total, content, is_fresh=kind != "equal data")
            yield Work(f"write {kind}, {name}, MB/s", total / 1e6, write)


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


def _write(path: Path, total: int, content: bytes) -> float:
    """`content` over and over, into a file that is there or not."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    seconds = _each(lambda at: os.pwrite(fd, content, at), range(0, total, len(content)))
    os.close(fd)
    return seconds


def _write_file(total: int, content: bytes, folder: Path, is_fresh: bool) -> float:
    if is_fresh:
        (folder / "bench.dat").unlink(missing_ok=True)
    return _write(folder / "bench.dat", total, content)


def _four(folder: Path, total: int, content: bytes) -> float:
    """Four threads together, each writing a new file of its own of a quarter of `total`."""
    begin = threading.Barrier(_WRITERS + 1)

    def write_one(path: Path) -> None:
        path.unlink(missing_ok=True)
        begin.wait()
        _write(path, total // _WRITERS, content)

    paths = [folder / f"writer-{number}.dat" for number in range(_WRITERS)]
    threads = [threading.Thread(target=write_one, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    begin.wait()
    return _each(threading.Thread.join, threads)


def _read(path: Path, places: Iterable[int] = (), is_cached: bool = False) -> float:
    """In requests of 1 MiB, or of 4 KiB at some places. What the kernel holds of the file in that
    mount is dropped before, or used.
    """
    size = 4 * KIB if places else MIB
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        if not is_cached:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        everywhere = range(0, os.fstat(fd).st_size, MIB)
        return _each(lambda at: os.pread(fd, size, at), places or everywhere)


def _read_again(path: Path) -> float:
    """What was read a moment before, and the kernel may keep, by a new open."""
    _read(path, is_cached=True)
    return _read(path, is_cached=True)


def _seek(path: Path) -> float:
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        return _each(lambda at: os.lseek(fd, at, os.SEEK_DATA), [0] * _SEEKS)


def _stat(folder: Path, count: int, pause_seconds: float = 0.0) -> float:
    paths = _populated(folder / "many", count)
    time.sleep(pause_seconds)
    return _each(os.stat, paths)


def _list(count: int, folder: Path) -> float:
    """What `ls -l` does. In the first turn, which does not count, the kernel knows all files."""
    _populated(folder / "listed", count)
    with os.scandir(folder / "listed") as entries:
        return _each(lambda entry: entry.stat(follow_symlinks=False), entries)


def _create_and_unlink(folder: Path, count: int) -> float:
    def create_and_unlink(path: str) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        os.unlink(path)

    return _each(create_and_unlink, [f"{folder}/new-{number}" for number in range(count)])


def _data(folder: Path, total: int) -> Path:
    """A file of data, made once."""
    path = folder / "read.dat"
    if not path.exists():
        path.write_bytes(os.urandom(MIB) * (total // MIB))
    return path


def _hole(folder: Path, total: int) -> Path:
    """A new file that is one hole."""
    path = folder / "hole.dat"
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, total)
    return path


def _populated(many: Path, count: int) -> list[str]:
    paths = [f"{many}/{number}" for number in range(count)]
    if not many.exists():
        many.mkdir()
        for path in paths:
            Path(path).touch()
    return paths
