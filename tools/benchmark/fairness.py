"""Milliseconds of `stat` beside eight writers on a slow disk, for each contender."""

import multiprocessing
import os
import resource
import time
from pathlib import Path

from tools.benchmark import figures, machine
from tools.benchmark.contenders import LL, PLAIN, Mounted, Setting
from tools.benchmark.figures import Report

MIB, _BLOCK, _SMALL = 1 << 20, 4 << 10, 64 << 10
_DISK_MB_S = 100
_FILE_BYTES = 64 * MIB
_NAMES, _OPEN = 1000, 250
# Between two looks: every name and every open file comes again when the kernel has forgotten its
# attributes, which it keeps for a second.
_TICK_SECONDS = 0.005
_END_SECONDS = 120.0
# Processes, so that no interpreter's lock makes the writers wait for the client that looks.
_CONTEXT = multiprocessing.get_context("fork")
_OVER = _CONTEXT.Event()
_DATA, _ZEROS = os.urandom(MIB), b"\0" * MIB
_MIXED = b"".join(os.urandom(_BLOCK) + _DATA[_BLOCK:_SMALL] for _ in range(MIB // _SMALL))
# What a file holds over and over at first, what is written into it, in requests of what size, and
# whether it is cold: dropped from the page cache below before each round, so that what is compared
# has to be read from the disk.
_WRITERS = (
    (b"", _DATA, MIB, False),
    (b"", _DATA, _SMALL, False),
    (_DATA, _DATA, MIB, True),
    (_DATA, _DATA, _SMALL, True),
    (_DATA[:_SMALL] * (MIB // _SMALL), _MIXED, MIB, True),
    (_DATA, _DATA, _SMALL, False),
    (b"", _ZEROS, MIB, False),
    (_ZEROS[:_BLOCK] + _DATA[_BLOCK:], _ZEROS, _SMALL, True),
)


def measure(setting: Setting) -> Report:
    # passthrough_ll keeps a descriptor for each known file.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = [name for name in (PLAIN, LL, *setting.mirrors) if name in setting.contenders]
    with machine.scratch(setting.disk) as work:
        found = {name: _beside_writers(setting, work, name) for name in names}
    head = f"Eight writers on a disk held to {_DISK_MB_S} MB/s, and a client that looks, ms."
    rows = ([name, *(f"{value:.2f}" for value in row.values())] for name, row in found.items())
    table = figures.table(["contender", *next(iter(found.values()))], rows)
    return Report(dict(found), [head, "", *table])


def _beside_writers(setting: Setting, work: Path, name: str) -> dict[str, float]:
    """On a disk of its own: percentiles of stat and fstat in ms, MB/s of the writers."""
    machine.say(f"{name}, beside writers")
    with machine.new_disk(work, "ext4", size_gib=3) as disk:
        (disk.backing / "names").mkdir()
        for number in range(_NAMES):
            (disk.backing / "names" / str(number)).touch()
        for number, (old, *_) in enumerate(_WRITERS):
            (disk.backing / str(number)).write_bytes(old * (_FILE_BYTES // MIB))
            machine.make_cold(disk.backing / str(number))
        mount = setting.contenders[name].mounted(disk.backing, disk.own / "mount")
        with mount as mounted, disk.held(_DISK_MB_S):
            processes = [
                _CONTEXT.Process(target=_write, args=(mounted, number, disk.own), daemon=True)
                for number in range(len(_WRITERS))
            ]
            _OVER.clear()
            moved, begun = sum(disk.moved_bytes()), time.perf_counter()
            try:
                for process in processes:
                    process.start()
                found = _look(mounted.path / "names", 6.0 if setting.quick else 20.0)
                megaseconds = (time.perf_counter() - begun) * 1e6
                moved = sum(disk.moved_bytes()) - moved
            finally:
                _OVER.set()
                for process in filter(lambda process: process.pid, processes):
                    process.join(_END_SECONDS)
        written = sum(int(path.read_text()) for path in disk.own.glob("written-*"))
    return found | {"writers, MB/s": written / megaseconds, "disk, MB/s": moved / megaseconds}


def _write(mounted: Mounted, number: int, counts: Path) -> None:
    """Write a file over and over, durably, until it is over; then leave a count of the bytes."""
    (old, new, size, is_cold), written = _WRITERS[number], 0
    while not _OVER.is_set():
        if is_cold:
            machine.make_cold(mounted.backing / str(number))
        with (mounted.path / str(number)).open("r+b", buffering=0) as file:
            if not old:
                file.truncate(0)
            for at in range(0, _FILE_BYTES, size):
                if not _OVER.is_set():
                    written += os.pwrite(file.fileno(), new[at % MIB :][:size], at)
            os.fsync(file.fileno())
    (counts / f"written-{number}").write_text(str(written))


def _look(names: Path, seconds: float) -> dict[str, float]:
    """Percentiles of stat, of names that the kernel has not looked up lately, and of fstat, when it
    no longer believes what it knows.
    """
    taken: dict[str, list[float]] = {"stat": [], "fstat": []}
    fds = [os.open(names / str(number), os.O_RDONLY) for number in range(_OPEN)]
    time.sleep(1.0)
    end, tick = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        path, fd = names / str(_OPEN + tick % (_NAMES - _OPEN)), fds[tick % _OPEN]
        for call, target in (("stat", path), ("fstat", fd)):
            begun = time.perf_counter()
            os.stat(target)
            taken[call].append((time.perf_counter() - begun) * 1000)
        tick += 1
        time.sleep(_TICK_SECONDS)
    for fd in fds:
        os.close(fd)
    return {
        f"{call}, {label}": sorted(values)[int(share * (len(values) - 1))]
        for call, values in taken.items()
        for label, share in (("50th percentile", 0.5), ("99th", 0.99), ("longest", 1.0))
    }
