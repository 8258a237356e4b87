"""What requests cost, and the daemon's memory, as files, their extents and their number grow.

Every row is a mount of its own. A request's cost is the median of many at places all over the
file, in µs, as a client sees it; it should not depend on the row.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.benchmark import peers

if TYPE_CHECKING:
    from collections.abc import Callable

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
KINDS = ("ext4", "xfs", "btrfs")
GAPS = ("plain", "unwritten", "cached")
REQUESTS = (
    "equal, in order, 256 KiB",
    "equal, 256 KiB",
    "zeros, 1 MiB",
    "zeros, 256 KiB",
    "changed, 4 KiB",
    "SEEK_DATA",
    "stat",
    "read, 128 KiB",
)
_BLOCK = 4 * KIB
_PIECE = 256 * KIB
_HOLE_BYTES = 512 * MIB  # ahead of what has data in it
_ISLANDS = 64
_ROUNDS = 5
_FOLDER_FILES = 10_000
_MOST_SECONDS = 180.0  # for making and listing the largest number of files
# Nothing is answered from the kernel's memory of attributes; but a folder that is listed is read
# with the attributes of what is in it.
_OPTIONS, _LISTING_OPTIONS = "attr_timeout=0", "attr_timeout=0.1"


@dataclass(frozen=True, slots=True)
class Content:
    """A file that is measured: pieces of 256 KiB at `pieces`, each equal to `piece`, and holes of
    1 MiB at `holes` (offsets in bytes).
    """

    piece: bytes
    pieces: list[int]
    holes: list[int]

    @property
    def changing(self) -> list[int]:
        """Where blocks are changed; everywhere else they stay equal, if there is an elsewhere."""
        return self.pieces[1::2] or self.pieces

    @property
    def size(self) -> int:
        return max([*(start + _PIECE for start in self.pieces), *(h + MIB for h in self.holes)])


def islands(size: int) -> Content:
    """16 MiB of data in pieces, spread evenly over `size` bytes, with holes between them."""
    step = size // _ISLANDS
    pieces = [number * step for number in range(_ISLANDS)]
    holes = [start + 2 * MIB for start in pieces]
    holes += [start + step - 2 * MIB for start in pieces]
    return Content(os.urandom(_PIECE), pieces, holes)


def comb(extents: int) -> Content:
    """Blocks of data with a gap after each, of one block as a rule, behind a hole."""
    period = max(2, _PIECE // _BLOCK // extents) * _BLOCK
    piece = os.urandom(_BLOCK) + bytes(period - _BLOCK)
    pieces = max(1, extents * period // _PIECE)
    return Content(
        (piece * (_PIECE // period)).ljust(_PIECE, b"\0"),
        [_HOLE_BYTES + number * _PIECE for number in range(pieces)],
        list(range(0, _HOLE_BYTES, 4 * MIB)),
    )


def make(path: Path, content: Content, gaps: str = "plain") -> None:
    """Store it: its zero blocks are holes (`plain`), preallocated (`unwritten`), or that and in the
    page cache (`cached`), which makes them data for SEEK_DATA on ext4 and xfs.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        first, last = content.pieces[0], content.pieces[-1] + _PIECE
        os.ftruncate(fd, content.size)
        if gaps != "plain":
            os.posix_fallocate(fd, first, last - first)
        filled = [
            block
            for block in range(0, _PIECE, _BLOCK)
            if any(content.piece[block : block + _BLOCK])
        ]
        runs = [(0, _PIECE)] if len(filled) == _PIECE // _BLOCK else []
        runs = runs or [(block, block + _BLOCK) for block in filled]
        for start in content.pieces:
            for begin, end in runs:
                os.pwrite(fd, content.piece[begin:end], start + begin)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if gaps != "unwritten":
            for start in content.pieces:
                os.pread(fd, _PIECE, start)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Series:
    """A request, called with descriptor and offset, and the offsets to choose from. It `waits`
    first until the kernel no longer believes the attributes that it knows.
    """

    places: list[int]
    call: Callable[[int, int], object]
    waits: bool = False


class Client:
    """The requests on some open files, each in turn. `asked` are the paths that are looked at."""

    def __init__(self, fds: list[int], content: Content, asked: list[Path], count: int) -> None:
        self._fds, self._content, self._asked, self._count = fds, content, asked, count
        self._chance = random.Random(3)
        self._turn = 0

    def measure(self) -> tuple[dict[str, float], float, str]:
        """Median µs of each request; the longest of them all, in ms, and which that was."""
        # Memory that was never touched would arrive in requests of 4 KiB: FUSE takes what it can
        # without a page fault.
        content, zeros = self._content, b"\0" * MIB
        behind = [start + _BLOCK for start in content.pieces]  # the first gap of a comb
        rewrite = _Series(content.pieces[::2], lambda fd, at: os.pwrite(fd, content.piece, at))
        series = dict(
            zip(
                REQUESTS[1:],
                (
                    rewrite,
                    _Series(content.holes, lambda fd, at: os.pwrite(fd, zeros, at)),
                    _Series(content.holes, lambda fd, at: os.pwrite(fd, zeros[:_PIECE], at)),
                    _Series(content.changing, lambda fd, at: os.pwrite(fd, self._news(), at)),
                    _Series([*content.holes, *behind], _seek),
                    _Series([0], self._stat, True),
                    _Series(content.pieces, lambda fd, at: os.pread(fd, 128 * KIB, at)),
                ),
                strict=True,
            )
        )
        taken: dict[str, list[float]] = {name: [] for name in REQUESTS}
        self._drop_cache()
        taken[REQUESTS[0]] = [self._timed(rewrite.call, at) for at in content.pieces[: self._count]]
        # In rounds, so that what else the machine does for a moment does not meet one request only.
        for _ in range(_ROUNDS):
            for name, one in series.items():
                self._drop_cache()
                if one.waits:
                    time.sleep(0.15)
                places = self._chance.choices(one.places, k=self._count // _ROUNDS)
                taken[name] += [self._timed(one.call, at) for at in places]
        found = {name: statistics.median(values) for name, values in taken.items()}
        worst = max(taken, key=lambda name: max(taken[name]))
        return found, max(taken[worst]) / 1000, worst

    def _drop_cache(self) -> None:
        """What the kernel remembers of the content on our side of the mount."""
        for fd in self._fds:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _timed(self, call: Callable[[int, int], object], at: int) -> float:
        self._turn += 1
        fd = self._fds[self._turn % len(self._fds)]
        begun = time.perf_counter()
        call(fd, at)
        return (time.perf_counter() - begun) * 1e6

    def _stat(self, _fd: int, _at: int) -> None:
        os.stat(self._asked[self._turn % len(self._asked)])

    def _news(self) -> bytes:
        """A block that no file holds."""
        return self._turn.to_bytes(8) * (_BLOCK // 8)


def _seek(fd: int, at: int) -> None:
    with contextlib.suppress(OSError):  # ENXIO: no data follows
        os.lseek(fd, at, os.SEEK_DATA)


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Rows of "size", "extents", "files" and "open"; `folder` holds sparse loop devices."""
    rows: dict[str, list[dict[str, Any]]] = {"size": [], "extents": [], "files": [], "open": []}
    count = 100 if quick else 300
    with peers.scratch(folder) as work:
        for kind in KINDS:
            with peers.disk(work, kind, 40) as (point, _stat):
                if kind == "xfs":
                    rows["size"] = [
                        {"what": label, **_single(work, point, islands(size), count)}
                        for label, size in (
                            ("1 GiB", GIB),
                            ("32 GiB", 32 * GIB),
                            ("1 TiB", 1 << 40),
                        )
                    ]
                    rows["open"] = [
                        {"what": f"{files}", **_open_files(work, point, files, count)}
                        for files in (1, 8, 64)
                    ]
                    rows["files"] = _files(work, point, quick, count)
                for gaps in GAPS:
                    for extents in (10, 1000, 100_000):
                        cost = _single(work, point, comb(extents), count, gaps)
                        rows["extents"].append(
                            {"what": f"{extents:,}", "kind": kind, "gaps": gaps, **cost}
                        )
    return rows


def _single(
    work: Path, point: Path, content: Content, count: int, gaps: str = "plain"
) -> dict[str, Any]:
    """One file in a backing folder of its own."""
    backing = _fresh(point)
    make(backing / "file", content, gaps)
    return _mounted(work, backing, content, ["file"], count)


def _open_files(work: Path, point: Path, files: int, count: int) -> dict[str, Any]:
    """So many files, all open for writing at once."""
    backing, content = _fresh(point), islands(GIB)
    names = [str(number) for number in range(files)]
    for name in names:
        make(backing / name, content)
    return _mounted(work, backing, content, names, max(count, 2 * files))


def _mounted(
    work: Path,
    backing: Path,
    content: Content,
    names: list[str],
    count: int,
    files: int = 0,
) -> dict[str, Any]:
    """Costs and memory on a new mount, after so many other `files` were made known to it."""
    mount = work / "mount"
    options = _LISTING_OPTIONS if files else _OPTIONS
    folders = sorted({_file(number).parent for number in range(0, files, 100)})
    with peers.mirror("mirrorfs", backing, mount, options) as peer:
        begun = time.perf_counter()
        known = sum(_know(mount / folder) for folder in folders)
        seconds = time.perf_counter() - begun
        fds = [os.open(mount / name, os.O_RDWR) for name in names]
        try:
            some = random.Random(5).sample(range(files), min(files, 1000))
            asked = [mount / _file(number) for number in some] or [mount / name for name in names]
            costs, worst_ms, worst = Client(fds, content, asked, count).measure()
            found: dict[str, Any] = {"µs": costs, "worst_ms": worst_ms, "worst": worst}
            begun = time.perf_counter()
            (mount / ".mirrorfs/files.json").read_bytes()
            found["report_ms"] = (time.perf_counter() - begun) * 1000
            found["memory_mib"] = peers.memory_mib(peer.pid, "RssAnon")
        finally:
            for fd in fds:
                os.close(fd)
    mount.rmdir()
    return {**found, "known": known, "listing_seconds": seconds}


def _file(number: int) -> Path:
    """Where one of many files lies, below the backing folder."""
    return Path(f"folder-{number // _FOLDER_FILES}") / str(number % _FOLDER_FILES)


def _know(folder: Path) -> int:
    """List a folder with the attributes of all that is in it; returns how many there are."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size >= 0 for entry in entries)


def _files(work: Path, point: Path, quick: bool, count: int) -> list[dict[str, Any]]:
    """More and more known files, in folders of 10,000; 1,000,000 only if that is done in time."""
    rows: list[dict[str, Any]] = []
    backing, content = _fresh(point), islands(GIB)
    make(backing / "file", content)
    made = 0
    for wanted in (100, 10_000, 200_000) if quick else (100, 10_000, 200_000, 1_000_000):
        begun = time.perf_counter()
        if rows and rows[-1]["seconds"] * wanted / made > _MOST_SECONDS:
            break
        for number in range(made, wanted):
            path = backing / _file(number)
            if number % _FOLDER_FILES == 0:
                path.parent.mkdir()
            os.mknod(path)
        made = wanted
        row = _mounted(work, backing, content, ["file"], count, wanted)
        row["seconds"] = time.perf_counter() - begun
        rows.append({"what": f"{wanted:,}", **row})
    return rows


def _fresh(point: Path) -> Path:
    """An empty backing folder; what the last one held is gone."""
    backing = point / "backing"
    if backing.exists():
        peers.run("rm", "-rf", backing)
    backing.mkdir()
    return backing


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "Cost of a request, median in µs, and the longest of them all; `RssAnon` of the daemon.",
        "",
        f"| growing | | {' | '.join(REQUESTS)} | longest, ms | files.json, ms | MiB |",
        "|---" * (len(REQUESTS) + 5) + "|",
    ]
    titles = {"size": "apparent size", "open": "open files", "files": "known files"}
    for axis, rows in found.items():
        for row in rows:
            title = titles.get(axis) or f"{row['kind']}, {row['gaps']} gaps: extents"
            costs = " | ".join(f"{row['µs'][name]:.0f}" for name in REQUESTS)
            lines.append(
                f"| {title} | {row['what']} | {costs} | {row['worst_ms']:.1f} ({row['worst']})"
                f" | {row['report_ms']:.1f} | {row['memory_mib']:.1f} |"
            )
    return lines
