"""The pieces of work of the speed table: each does one thing in a folder, and says how fast.

Every function prepares what it needs outside the time that it measures. Where content is read, it
lies in the page cache below; where a figure depends on what the kernel still knows of a mount, the
work says what is dropped before it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.benchmark.peers import Peer

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"1 MiB": MIB, "256 KiB": 256 * KIB, "32 KiB": 32 * KIB, "4 KiB": 4 * KIB}
WRITERS = 4
ZEROS_OVER_HOLE = "write zeros over a hole, 1 MiB, MB/s"
_SEEKS = 5000
_RANDOM_READS = 4000
_FILES = 1000
_LISTED = 10_000
_QUIET_SECONDS = 0.2
_QUIET_CPU_SECONDS = 0.001
_SETTLE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Work:
    """One row. `call` does it once in a folder, and gives it in the label's unit; more is better.

    `is_forgotten` says whether the kernel is to forget names and attributes before each call.
    """

    label: str
    call: Callable[[Path], float]
    is_forgotten: bool = False


def total_bytes(size: int, quick: bool) -> int:
    full = 256 * MIB if size >= 256 * KIB else 32 * MIB if size > 4 * KIB else 8 * MIB
    return full // 4 if quick else full


def first_rows(quick: bool) -> list[Work]:
    """Rows that have been measured from the first version on."""
    found: list[Work] = []
    for name, size in SIZES.items():
        total = total_bytes(size, quick)
        data, zeros = os.urandom(size), bytes(size)
        found += [
            _writing(f"write new data, {name}, MB/s", data, total, is_fresh=True),
            _writing(f"write equal data, {name}, MB/s", data, total, is_fresh=False),
            _writing(f"write zeros, {name}, MB/s", zeros, total, is_fresh=True),
        ]
    total, files = total_bytes(MIB, quick), _FILES // 4 if quick else _FILES
    return [
        *found,
        Work("read, 1 MiB, MB/s", lambda folder: read(folder, total)),
        Work("lseek SEEK_DATA, 1/s", lambda folder: seek_rate(folder, total)),
        Work("stat, 1/s", lambda folder: stat_rate(folder, files, pause_seconds=1.1)),
        Work("create and unlink, 1/s", lambda folder: create_rate(folder, files)),
    ]


def later_rows(quick: bool) -> list[Work]:
    """Rows that came later; after the others, so that those still measure the same."""
    total = total_bytes(MIB, quick)
    files, listed = (_FILES // 4, _LISTED // 4) if quick else (_FILES, _LISTED)
    data = os.urandom(MIB)
    return [
        Work(ZEROS_OVER_HOLE, lambda folder: zeros_over_hole(folder, total)),
        Work("four writers, new data, 1 MiB, MB/s", lambda folder: four(folder, data, total)),
        Work("read again, 1 MiB, MB/s", lambda folder: read(folder, total, is_again=True)),
        Work("read a hole, 1 MiB, MB/s", lambda folder: read_hole(folder, total)),
        Work("random reads, 4 KiB, 1/s", lambda folder: random_rate(folder, total)),
        Work(
            "stat, names forgotten, 1/s",
            lambda folder: stat_rate(folder, files, pause_seconds=0),
            is_forgotten=True,
        ),
        Work(
            f"list {listed:,} files with attributes, 1/s",
            lambda folder: list_rate(folder, listed),
            is_forgotten=True,
        ),
    ]


def forget_names(found: list[Peer]) -> None:
    """Let the kernel forget all names and attributes that nobody uses, for every peer alike.

    A FUSE daemon is then told of each, which must not fall into the next measurement: returns when
    all daemons are idle again.
    """
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    end = time.monotonic() + _SETTLE_SECONDS
    before = [peer.cpu_seconds() for peer in found]
    while time.monotonic() < end:
        time.sleep(_QUIET_SECONDS)
        now = [peer.cpu_seconds() for peer in found]
        if all(b - a < _QUIET_CPU_SECONDS for a, b in zip(before, now, strict=True)):
            return
        before = now


def _writing(label: str, content: bytes, total: int, is_fresh: bool) -> Work:
    return Work(label, lambda folder: write(folder / "bench.dat", content, total, is_fresh))


def write(path: Path, content: bytes, total: int, is_fresh: bool) -> float:
    """MB/s of writing `content` over and over, `total` bytes; fresh begins with a new file."""
    if is_fresh:
        path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    begun = time.perf_counter()
    for offset in range(0, total, len(content)):
        os.pwrite(fd, content, offset)
    seconds = time.perf_counter() - begun
    os.close(fd)
    return total / seconds / 1e6


def zeros_over_hole(folder: Path, total: int) -> float:
    """MB/s of writing zeros into a file that is one hole already."""
    path = folder / "zeros.dat"
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(total)
    return write(path, bytes(MIB), total, is_fresh=False)


def four(folder: Path, content: bytes, total: int) -> float:
    """MB/s of four threads together, each writing a new file of its own of a quarter of `total`."""
    begin = threading.Barrier(WRITERS + 1)
    each = total // WRITERS
    fds: list[int] = []
    for number in range(WRITERS):
        path = folder / f"writer-{number}.dat"
        path.unlink(missing_ok=True)
        fds.append(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    def write_one(fd: int) -> None:
        begin.wait()
        for offset in range(0, each, len(content)):
            os.pwrite(fd, content, offset)

    threads = [threading.Thread(target=write_one, args=(fd,)) for fd in fds]
    for thread in threads:
        thread.start()
    begin.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    for fd in fds:
        os.close(fd)
    return each * WRITERS / seconds / 1e6


def read(folder: Path, total: int, is_again: bool = False) -> float:
    """MB/s of reading a file that lies in the page cache below, in requests of 1 MiB.

    Again: what was read a moment before, and the kernel may keep, by a new open.
    """
    path = _filled(folder, total)
    if is_again:
        _read_through(path, total)
    return _read_through(path, total, is_forgotten=not is_again)


def read_hole(folder: Path, total: int) -> float:
    """MB/s of reading a file that is one hole, in requests of 1 MiB."""
    path = folder / "hole.dat"
    if not path.exists():
        with path.open("wb") as file:
            file.truncate(total)
    return _read_through(path, total, is_forgotten=True)


def random_rate(folder: Path, total: int) -> float:
    """Reads of 4 KiB a second in a file that lies in the page cache below, nothing twice."""
    path = _filled(folder, total)
    places = random.Random(1).sample(range(total // (4 * KIB)), _RANDOM_READS)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    for place in places:
        os.pread(fd, 4 * KIB, place * 4 * KIB)
    seconds = time.perf_counter() - begun
    os.close(fd)
    return len(places) / seconds


def seek_rate(folder: Path, total: int) -> float:
    """lseek calls with SEEK_DATA a second, on the file that was read."""
    fd = os.open(_filled(folder, total), os.O_RDONLY)
    begun = time.perf_counter()
    for _ in range(_SEEKS):
        os.lseek(fd, 0, os.SEEK_DATA)
    seconds = time.perf_counter() - begun
    os.close(fd)
    return _SEEKS / seconds


def stat_rate(folder: Path, count: int, pause_seconds: float) -> float:
    """stat calls a second; the pause lets attributes expire that hold for a second."""
    many = _populated(folder / "many", count)
    names = [str(many / str(number)) for number in range(count)]
    time.sleep(pause_seconds)
    begun = time.perf_counter()
    for name in names:
        os.stat(name)
    return count / (time.perf_counter() - begun)


def list_rate(folder: Path, count: int) -> float:
    """Files a second of what `ls -l` does: list a folder, and ask for every file's attributes."""
    listed = folder / "listed"
    if not listed.exists():
        _populated(listed, count)
        # The kernel knows them all now; this turn is the one that is not counted.
    begun = time.perf_counter()
    with os.scandir(listed) as entries:
        found = sum(1 for entry in entries if entry.stat(follow_symlinks=False))
    seconds = time.perf_counter() - begun
    if found != count:
        raise SystemExit(f"tools/bench: {listed} lists {found} files of {count}")
    return count / seconds


def create_rate(folder: Path, count: int) -> float:
    """Files made and removed a second."""
    begun = time.perf_counter()
    for number in range(count):
        os.close(os.open(folder / f"new-{number}", os.O_CREAT | os.O_WRONLY, 0o644))
        os.unlink(folder / f"new-{number}")
    return count / (time.perf_counter() - begun)


def _filled(folder: Path, total: int) -> Path:
    path = folder / "read.dat"
    if not path.exists() or path.stat().st_size != total:
        path.write_bytes(os.urandom(MIB) * (total // MIB))
    return path


def _populated(many: Path, count: int) -> Path:
    if not many.exists():
        many.mkdir()
        for number in range(count):
            (many / str(number)).touch()
    return many


def _read_through(path: Path, total: int, is_forgotten: bool = False) -> float:
    """MB/s; forgotten first drops what the kernel holds of the file in that mount."""
    fd = os.open(path, os.O_RDONLY)
    if is_forgotten:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    for offset in range(0, total, MIB):
        os.pread(fd, MIB, offset)
    seconds = time.perf_counter() - begun
    os.close(fd)
    return total / seconds / 1e6
