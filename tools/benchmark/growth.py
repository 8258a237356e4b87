"""What requests cost, and the daemon's memory, as files, their extents and their number grow.

Every row is a mount of its own. A request's cost is the median of many at places all over the file,
in µs, as a client sees it; it should not depend on the row.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from tools.benchmark import figures, machine
from tools.benchmark.contenders import MIRROR, PEER, Setting
from tools.benchmark.figures import Report

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_BLOCK, _PIECE = 4 * KIB, 256 * KIB
_ROUNDS = 5
_FOLDER_FILES = 10_000

Costs = dict[str, float]  # median µs by request, or MiB by what is known
Call = Callable[[int, int], object]  # with descriptor and offset


@dataclass(frozen=True, slots=True)
class Case:
    """A row: files that are alike are open, others are known.

    Each has pieces of 256 KiB, of which every `period` begins with data, and holes of 1 MiB.
    """

    kind: str
    what: str
    pieces: Sequence[int]
    holes: Sequence[int]
    period: int = _PIECE
    open_files: int = 1
    known_files: int = 0

    def store(self, path: Path, data: bytes) -> None:
        with path.open("wb", buffering=0) as file:
            file.truncate(max(*self.pieces, *self.holes) + MIB)
            for start in self.pieces:
                for at in range(start, start + _PIECE, self.period):
                    os.pwrite(file.fileno(), data, at)
            os.fsync(file.fileno())


def _cases(quick: bool) -> Iterator[Case]:
    def islands(what: str, size: int = GIB, open_files: int = 1, known_files: int = 0) -> Case:
        """16 MiB of data in pieces, spread evenly over `size` bytes."""
        pieces = range(0, size, size // 64)
        holes = [start + 2 * MIB for start in pieces]
        return Case("xfs", what, pieces, holes, _PIECE, open_files, known_files)

    yield islands("1 GiB apparent")
    yield islands("1 TiB apparent", KIB * GIB)
    for kind in machine.KINDS:
        for extents in (1000, 100_000):  # blocks with a gap after each, behind a hole
            pieces = range(512 * MIB, 512 * MIB + extents * 2 * _BLOCK, _PIECE)
            holes = range(0, 512 * MIB, 4 * MIB)
            yield Case(kind, f"{extents:,} extents", pieces, holes, 2 * _BLOCK)
    for count in (100, 10_000, 200_000) if quick else (100, 10_000, 200_000, 1_000_000):
        yield islands(f"{count:,} known files", known_files=count)
    yield islands("64 open files", open_files=64)


def measure(setting: Setting) -> Report:
    rows: list[tuple[str, str, dict[str, Costs]]] = []
    with machine.scratch(setting.disk) as work:
        for case in _cases(setting.quick):
            found = {name: _measured(setting, work, case, name) for name in setting.mirrors}
            rows.append((case.kind, case.what, found))
    head = f"Cost of a request, median, µs, and `RssAnon` of the daemon{_note(setting)}."
    titles = ["file system", "growing", *rows[0][2][MIRROR]]
    cells = ([kind, what, *_cells(found)] for kind, what, found in rows)
    return Report({"rows": rows}, [head, "", *figures.table(titles, cells)])


def _measured(setting: Setting, work: Path, case: Case, name: str) -> Costs:
    machine.say(f"{case.kind}: {name}, {case.what}")
    data = os.urandom(min(case.period, _BLOCK if case.period < _PIECE else _PIECE))
    names = [str(number) for number in range(case.open_files)]
    # Nothing is answered from the kernel's memory of attributes; but a folder that is listed is
    # read with the attributes of what is in it.
    options = "attr_timeout=0.1" if case.known_files else "attr_timeout=0"
    with machine.new_disk(work, case.kind, size_gib=40) as disk:
        for one in names:
            case.store(disk.backing / one, data)
        known = _make_files(disk.backing, case.known_files)
        mount = setting.contenders[name].mounted(disk.backing, disk.own / "mount", options)
        with mount as mounted, ExitStack() as stack:
            for folder in mounted.path.glob("folder-*"):
                _look_at(folder)
            opened = ((mounted.path / one).open("r+b", buffering=0) for one in names)
            fds = [stack.enter_context(file).fileno() for file in opened]
            paths = [str(mounted.path / one) for one in known[:: len(known) // 100 or 1] or names]
            count = max(20 if setting.quick else 60, 2 * case.open_files // _ROUNDS)
            costs = _timed(fds, _requests(case, data, paths), count)
            return costs | {"MiB": mounted.memory_mib("RssAnon")}


def _requests(case: Case, data: bytes, paths: list[str]) -> dict[str, tuple[Sequence[int], Call]]:
    """By name: where, and what. Half of the pieces stay equal, blocks of the others are changed."""
    # Memory that was never touched would arrive in requests of 4 KiB: FUSE takes what it can
    # without a page fault.
    zeros, piece = b"\0" * MIB, data.ljust(case.period, b"\0") * (_PIECE // case.period)
    gaps = [*case.holes, *(start + _BLOCK for start in case.pieces)]
    return {
        "equal 256 KiB": (case.pieces[::2], lambda fd, at: os.pwrite(fd, piece, at)),
        "zeros 1 MiB": (case.holes, lambda fd, at: os.pwrite(fd, zeros, at)),
        "zeros 256 KiB": (case.holes, lambda fd, at: os.pwrite(fd, zeros[:_PIECE], at)),
        "changed 4 KiB": (case.pieces[1::2], lambda fd, at: os.pwrite(fd, os.urandom(8) * 512, at)),
        "SEEK_DATA": (gaps, lambda fd, at: os.lseek(fd, at, os.SEEK_DATA)),
        "stat": (range(len(paths)), lambda _, at: os.stat(paths[at])),
        "read 128 KiB": (case.pieces, lambda fd, at: os.pread(fd, 128 * KIB, at)),
    }


def _timed(fds: list[int], requests: dict[str, tuple[Sequence[int], Call]], count: int) -> Costs:
    """Median µs of each request, so often a round, on all the files in turn."""
    chance = random.Random(3)
    taken: dict[str, list[float]] = {name: [] for name in requests}
    # In rounds, so that what else the machine does for a moment does not meet one request only.
    for _ in range(_ROUNDS):
        for name, (places, call) in requests.items():
            for fd in fds:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            time.sleep(0.15)  # until the kernel no longer believes the attributes that it knows
            for turn, at in enumerate(chance.choices(places, k=count)):
                begun = time.perf_counter()
                with suppress(OSError):  # ENXIO: no data follows
                    call(fds[turn % len(fds)], at)
                taken[name].append((time.perf_counter() - begun) * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


def _make_files(backing: Path, count: int) -> list[str]:
    """Empty files in folders of 10,000; their paths below the backing folder."""
    names = [f"folder-{at // _FOLDER_FILES}/some-file-name-{at}" for at in range(count)]
    for name in names:
        (backing / name).parent.mkdir(exist_ok=True, parents=True)
        os.mknod(backing / name)
    return names


def _look_at(folder: Path) -> None:
    """List a folder with the attributes of what is in it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            entry.stat()


def measure_memory(setting: Setting) -> Report:
    """Resident size of the daemon after 10,000 and 20,000 known files; descriptors it holds."""
    found: dict[str, Costs] = {}
    with machine.scratch(setting.disk) as work:
        _make_files(work / "backing", 2 * _FOLDER_FILES)
        for name in setting.mirrors:
            with setting.contenders[name].mounted(work / "backing", work / "mount") as mounted:
                sizes = [mounted.memory_mib("VmRSS")]
                for folder in (mounted.path / f"folder-{number}" for number in range(2)):
                    _look_at(folder)
                    for path in folder.iterdir():
                        os.getxattr(path, "user.mirrorfs.stats")
                    sizes.append(mounted.memory_mib("VmRSS"))
                found[name] = {
                    "MiB after mount": sizes[0],
                    "MiB after 10,000 files": sizes[1],
                    "MiB after 20,000 files": sizes[2],
                    "KiB a file beyond 10,000": (sizes[2] - sizes[1]) * KIB / _FOLDER_FILES,
                    "descriptors": len(os.listdir(f"/proc/{mounted.pid}/fd")),
                }
    cells = zip(found[MIRROR], _cells(found), strict=True)
    return Report(dict(found), figures.table([f"memory{_note(setting)}", ""], cells))


def _note(setting: Setting) -> str:
    return " (over that of the peer)" if PEER in setting.mirrors else ""


def _cells(found: dict[str, Costs]) -> list[str]:
    peer = found.get(PEER)
    return [
        f"{value:,.2f}" + (f" ({value / max(peer[name], 1e-9):.2f})" if peer else "")
        for name, value in found[MIRROR].items()
    ]
