"""Whether some clients are held up by others: by eight writers on a slow disk, or by a hung file.

The first story counts milliseconds of `stat` beside the writers, for each peer; the second counts
MB/s of other writers, with one file stalled by the fault layer and without.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.benchmark import peers, speed_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import ForkProcess

    from tools.benchmark.peers import Peer

KIB, MIB = 1 << 10, 1 << 20
DISK_MB_S = 100
GOAL_MS = 5.0  # of the 99th percentile
_BLOCK = 4 * KIB
_NAMES = 1000
_OPEN = 250
# Between two looks: every name and every open file comes again when the kernel has forgotten its
# attributes, which it keeps for a second.
_TICK_SECONDS = 0.005
_STALLED_SECONDS = 1.2
_STALL_STORIES = [
    (count, label, size)
    for count in (7, 1)
    for label, size in (("1 MiB", MIB), ("64 KiB", 64 * KIB), ("4 KiB", _BLOCK))
]
_END_SECONDS = 60.0
_MOUNT_SECONDS = 10.0
# Processes, so that no interpreter's lock makes the writers wait for the one who looks.
_CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Writer:
    """One of the eight: what it finds in its file, what it writes, and in requests of what size.

    `cold` drops the file from the page cache below before each round, so that what is compared has
    to be read from the disk.
    """

    name: str
    old: bytes
    new: bytes
    size: int
    cold: bool = False

    def prepare(self, folder: Path, total: int) -> None:
        path = folder / self.name
        with path.open("wb") as file:
            if self.old:
                for _ in range(total // len(self.old)):
                    file.write(self.old)
            os.fsync(file.fileno())
        speed_limit.forget(path)

    def round(self, path: Path, below: Path, total: int, is_over: Callable[[], bool]) -> int:
        """Write the file once, durably; returns how many bytes were taken before it was over."""
        if self.cold:
            speed_limit.forget(below)
        fd = os.open(path, os.O_RDWR)
        try:
            if not self.old:
                os.ftruncate(fd, 0)
            done = 0
            while done < total and not is_over():
                first = done % len(self.new)
                done += os.pwrite(fd, self.new[first : first + self.size], done)
            os.fsync(fd)
        finally:
            os.close(fd)
        return done


def writers() -> list[Writer]:
    """Eight files: new, equal, a little changed and zero, in requests of 1 MiB and of 64 KiB."""
    data, other, zeros = os.urandom(MIB), os.urandom(MIB), b"\0" * MIB
    mixed = bytearray(data)
    for offset in range(0, MIB, 16 * _BLOCK):
        mixed[offset : offset + _BLOCK] = other[offset : offset + _BLOCK]
    return [
        Writer("new-1m", b"", data, MIB),
        Writer("new-64k", b"", data, 64 * KIB),
        Writer("equal-1m", data, data, MIB, cold=True),
        Writer("equal-64k", data, data, 64 * KIB, cold=True),
        Writer("changed-1m", data, bytes(mixed), MIB, cold=True),
        Writer("warm-64k", data, data, 64 * KIB),
        Writer("zeros-1m", b"", zeros, MIB),
        Writer("zeros-64k", zeros[:_BLOCK] + data[_BLOCK:], zeros, 64 * KIB, cold=True),
    ]


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Both stories; `folder` holds the loop devices, about 3 GiB at a time."""
    speed_limit.require()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # passthrough_ll keeps a descriptor for each known file.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return {
            "disk_mb_s": DISK_MB_S,
            "stat": {
                name: _beside_writers(folder, name, 6.0 if quick else 20.0)
                for name in ("plain folder", "passthrough_ll", "mirrorfs")
            },
            "stall": _stalled(3 if quick else 5),
        }
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _beside_writers(parent: Path, name: str, seconds: float) -> dict[str, Any]:
    """One peer on a disk of its own: percentiles of stat and fstat in ms, MB/s of the writers."""
    total = 64 * MIB
    with peers.scratch(parent) as work, ExitStack() as stack:
        point, stat = stack.enter_context(peers.disk(work, "ext4", 3))
        backing = point / "backing"
        (backing / "names").mkdir(parents=True)
        for number in range(_NAMES):
            (backing / "names" / str(number)).touch()
        jobs = writers()
        for job in jobs:
            job.prepare(backing, total)
        peer = stack.enter_context(_peer(work, name, backing))
        stack.enter_context(speed_limit.held(stat, DISK_MB_S))
        before, begun = _sectors(stat), time.perf_counter()
        with _running(jobs, peer.path, backing, total) as taken:
            looks = _look(peer.path / "names", seconds)
            took = time.perf_counter() - begun
            moved = (_sectors(stat) - before) * 512
            written = sum(count.value for count in taken)
    return {
        **{kind: percentiles(values) for kind, values in looks.items()},
        "looks": len(looks["stat"]),
        "writers_mb_s": written / took / 1e6,
        "disk_mb_s": moved / took / 1e6,
    }


@contextmanager
def _peer(work: Path, name: str, backing: Path) -> Iterator[Peer]:
    if name == "passthrough_ll":
        with peers.passthrough_ll(work, name, backing, work / "mount") as peer:
            yield peer
    elif name == "mirrorfs":
        with peers.mirror(name, backing, work / "mount") as peer:
            yield peer
    else:
        yield peers.Peer(name, backing)


@contextmanager
def _running(jobs: list[Writer], folder: Path, below: Path, total: int) -> Iterator[list[Any]]:
    """The writers at work, each over and over; gives the count of bytes of each."""
    over = _CONTEXT.Event()
    taken = [_CONTEXT.Value("q", 0, lock=False) for _ in jobs]

    def work(job: Writer, count: Any) -> None:  # noqa: ANN401 - ctypes
        while not over.is_set():
            path, hidden = folder / job.name, below / job.name
            count.value += job.round(path, hidden, total, over.is_set)

    started: list[ForkProcess] = []
    for job, count in zip(jobs, taken, strict=True):
        process = _CONTEXT.Process(target=work, args=(job, count), daemon=True)
        process.start()
        started.append(process)
    try:
        yield taken
    finally:
        over.set()
        for process in started:
            process.join(2 * _END_SECONDS)


def _look(names: Path, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of stat, of names that the kernel has not looked up lately, and of fstat, when
    it no longer believes what it knows.
    """
    found: dict[str, list[float]] = {"stat": [], "fstat": []}
    fds = [os.open(names / str(number), os.O_RDONLY) for number in range(_OPEN)]
    time.sleep(1.0)
    try:
        begun = time.perf_counter()
        tick = 0
        while time.perf_counter() < begun + seconds:
            path = names / str(_OPEN + tick % (_NAMES - _OPEN))
            found["stat"].append(_milliseconds(lambda path=path: os.stat(path)))  # type: ignore[misc]
            fd = fds[tick % _OPEN]
            found["fstat"].append(_milliseconds(lambda fd=fd: os.fstat(fd)))  # type: ignore[misc]
            tick += 1
            time.sleep(_TICK_SECONDS)
    finally:
        for fd in fds:
            os.close(fd)
    return found


def _milliseconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def percentiles(values: list[float]) -> dict[str, float]:
    """The 50th and 99th percentile and the largest of some milliseconds."""
    ordered = sorted(values)
    return {
        "p50_ms": ordered[len(ordered) // 2],
        "p99_ms": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        "max_ms": ordered[-1],
    }


def _sectors(stat: Path) -> int:
    """Sectors of 512 bytes read and written."""
    fields = stat.read_text().split()
    return int(fields[2]) + int(fields[6])


def _stalled(runs: int) -> dict[str, dict[str, Any]]:
    """MB/s of some writers, by their number and the size of a request, without and with one more
    that is stalled.
    """
    found: dict[str, dict[str, Any]] = {}
    root = Path(__file__).parents[2]
    with peers.scratch(Path("/dev/shm")) as work:
        backing, point, orders = work / "backing", work / "mount", work / "orders"
        for path in (backing, point):
            path.mkdir()
        orders.write_text("")
        words = [sys.executable, "-m", "tests.faults.driver", str(orders), "mount"]
        words += [str(backing), str(point), "-f", "-o", f"log={work}/log"]
        daemon = subprocess.Popen(words, cwd=root)
        try:
            _wait_for(point)
            for count, label, size in _STALL_STORIES:
                free, beside = [], []
                for _ in range(runs):
                    free.append(_throughput(backing, point, count, size))
                    with _hung(orders, point / "hung"):
                        beside.append(_throughput(backing, point, count, size))
                found[f"{count} of {label}"] = {
                    "free_mb_s": statistics.median(free),
                    "beside_mb_s": statistics.median(beside),
                    "ratio": statistics.median(b / a for a, b in zip(free, beside, strict=True)),
                }
        finally:
            orders.write_text("")
            subprocess.run(["umount", "--lazy", point], check=False)
            daemon.wait(_MOUNT_SECONDS)
    return found


def _wait_for(point: Path) -> None:
    end = time.monotonic() + _MOUNT_SECONDS
    while not point.is_mount():
        if time.monotonic() > end:
            raise SystemExit("tools/bench: the mount with faults does not come up")
        time.sleep(0.05)


@contextmanager
def _hung(orders: Path, path: Path) -> Iterator[None]:
    """A client whose one write does not come to an end before the block does, or hardly."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    orders.write_text(f"stall {_STALLED_SECONDS + 1.0} {path.name}")
    over = _CONTEXT.Event()

    def work() -> None:
        while not over.is_set():
            os.pwrite(fd, os.urandom(_BLOCK), 0)

    client = _CONTEXT.Process(target=work, daemon=True)
    client.start()
    try:
        time.sleep(0.6)  # until it counts as hung
        yield
    finally:
        over.set()
        client.join(_END_SECONDS)
        orders.write_text("")
        os.close(fd)


def _throughput(backing: Path, point: Path, count: int, size: int) -> float:
    """MB/s of so many writers of new data in requests of `size` bytes, together."""
    data = os.urandom(MIB)
    jobs = [Writer(f"free-{number}", b"", data, size) for number in range(count)]
    for job in jobs:
        (backing / job.name).touch()
    begun = time.perf_counter()
    with _running(jobs, point, backing, 16 * MIB) as taken:
        time.sleep(_STALLED_SECONDS)
    took = time.perf_counter() - begun
    return float(sum(count.value for count in taken)) / took / 1e6


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"Eight writers on a disk held to {found['disk_mb_s']} MB/s, and stat beside them, ms;"
        f" goal: 99th percentile below {GOAL_MS:.0f}.",
        "",
        "| peer | call | 50th percentile | 99th | largest | writers, MB/s | disk, MB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["stat"].items():
        for call in ("stat", "fstat"):
            figures = " | ".join(f"{row[call][key]:.2f}" for key in ("p50_ms", "p99_ms", "max_ms"))
            lines.append(
                f"| {name} | {call} | {figures} | {row['writers_mb_s']:.0f}"
                f" | {row['disk_mb_s']:.0f} |"
            )
    lines += [
        "",
        "Writers of new data, MB/s together, and the same while one more file is hung.",
        "",
        "| writers and requests | free | beside a hung file | ratio |",
        "|---|---|---|---|",
    ]
    for label, row in found["stall"].items():
        lines.append(
            f"| {label} | {row['free_mb_s']:.0f} | {row['beside_mb_s']:.0f} | {row['ratio']:.2f} |"
        )
    return lines
