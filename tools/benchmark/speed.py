"""Speed on memory-speed backing (tmpfs), every workload by every peer in turn."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.benchmark import peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.benchmark.peers import Peer

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"1 MiB": MIB, "256 KiB": 256 * KIB, "32 KiB": 32 * KIB, "4 KiB": 4 * KIB}
FILES = 500
SEEKS = 5000


def total_bytes(size: int, quick: bool) -> int:
    full = 256 * MIB if size >= 256 * KIB else 32 * MIB if size > 4 * KIB else 8 * MIB
    return full // 4 if quick else full


def write(folder: Path, size: int, total: int, content: bytes, fresh: bool) -> float:
    """MB/s of writing `total` bytes in requests of `size`; `fresh` begins with a new file."""
    path = folder / "bench.dat"
    if fresh and path.exists():
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    begun = time.perf_counter()
    for offset in range(0, total, size):
        os.pwrite(fd, content, offset)
    seconds = time.perf_counter() - begun
    os.close(fd)
    return total / seconds / 1e6


def read(folder: Path, total: int) -> float:
    """MB/s of reading a file that lies in the page cache below, in requests of 1 MiB."""
    path = folder / "read.dat"
    if not path.exists() or path.stat().st_size != total:
        path.write_bytes(os.urandom(MIB) * (total // MIB))
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    for offset in range(0, total, MIB):
        os.pread(fd, MIB, offset)
    seconds = time.perf_counter() - begun
    os.close(fd)
    return total / seconds / 1e6


def seek_rate(folder: Path, total: int) -> float:
    """lseek calls with SEEK_DATA a second, on the file that was read."""
    read(folder, total)
    fd = os.open(folder / "read.dat", os.O_RDONLY)
    begun = time.perf_counter()
    for _ in range(SEEKS):
        os.lseek(fd, 0, os.SEEK_DATA)
    seconds = time.perf_counter() - begun
    os.close(fd)
    return SEEKS / seconds


def stat_rate(folder: Path, _total: int) -> float:
    """stat calls a second over files that the kernel has not looked up lately."""
    many = folder / "many"
    if not many.exists():
        many.mkdir()
        for number in range(FILES):
            (many / str(number)).touch()
    time.sleep(1.1)
    begun = time.perf_counter()
    for number in range(FILES):
        os.stat(many / str(number))
    return FILES / (time.perf_counter() - begun)


def create_rate(folder: Path, _total: int) -> float:
    """Files made and removed a second."""
    begun = time.perf_counter()
    for number in range(FILES):
        os.close(os.open(folder / f"new-{number}", os.O_CREAT | os.O_WRONLY, 0o644))
        os.unlink(folder / f"new-{number}")
    return FILES / (time.perf_counter() - begun)


def workloads(quick: bool) -> dict[str, Callable[[Path], float]]:
    found: dict[str, Callable[[Path], float]] = {}
    for label, size in SIZES.items():
        total = total_bytes(size, quick)
        data, zeros = os.urandom(size), bytes(size)
        for kind, content, fresh in (
            ("new data", data, True),
            ("equal data", data, False),
            ("zeros", zeros, True),
        ):
            found[f"write {kind}, {label}, MB/s"] = (
                lambda folder, s=size, t=total, c=content, f=fresh: (  # type: ignore[misc]
                    write(folder, s, t, c, f)
                )
            )
    total = total_bytes(MIB, quick)
    found["read, 1 MiB, MB/s"] = lambda folder: read(folder, total)
    found["lseek SEEK_DATA, 1/s"] = lambda folder: seek_rate(folder, total)
    found["stat, 1/s"] = lambda folder: stat_rate(folder, 0)
    found["create and unlink, 1/s"] = lambda folder: create_rate(folder, 0)
    return found


def measure(runs: int, quick: bool) -> dict[str, Any]:
    """Median, minimum and maximum of each workload for each peer; CPU and memory of the daemons."""
    with peers.scratch(Path("/dev/shm")) as work, ExitStack() as stack:
        (work / "plain").mkdir()
        found: list[Peer] = [
            peers.Peer("plain folder", work / "plain"),
            stack.enter_context(
                peers.passthrough_ll(work, "passthrough_ll", work / "b-ll", work / "ll")
            ),
            stack.enter_context(
                peers.passthrough_ll(
                    work, "passthrough_ll with xattrs", work / "b-lx", work / "lx", "xattr"
                )
            ),
            stack.enter_context(peers.mirror("mirrorfs", work / "b-m", work / "m")),
            stack.enter_context(
                peers.mirror(
                    "mirrorfs, rules off", work / "b-o", work / "o", "zeros=keep,unchanged=write"
                )
            ),
        ]
        rows: dict[str, dict[str, Any]] = {}
        for label, call in workloads(quick).items():
            values: dict[str, list[float]] = {peer.name: [] for peer in found}
            cpu = {peer.name: peer.cpu_seconds() for peer in found}
            for turn in range(runs + 1):
                for peer in found:
                    value = call(peer.path)
                    if turn:
                        values[peer.name].append(value)
            rows[label] = {
                name: {
                    "median": statistics.median(taken),
                    "min": min(taken),
                    "max": max(taken),
                }
                for name, taken in values.items()
            }
            if label.startswith("write new data, 1 MiB"):
                gigabytes = (runs + 1) * total_bytes(MIB, quick) / 1e9
                cpu = {
                    peer.name: (peer.cpu_seconds() - cpu[peer.name]) / gigabytes for peer in found
                }
                rows["CPU seconds of the daemon a GB, new data, 1 MiB"] = {
                    name: {"median": value, "min": value, "max": value}
                    for name, value in cpu.items()
                }
        peak = {peer.name: peer.peak_mib() for peer in found}
        rows["peak memory of the daemon, MiB"] = {
            name: {"median": value, "min": value, "max": value} for name, value in peak.items()
        }
    return rows
