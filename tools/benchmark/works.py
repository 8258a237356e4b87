"""The pieces of work whose speed is measured. Each is done in a mount, and leaves it as it was.

What stays is what later ones need again: a file of data, and folders of empty files.
"""

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Self, TypeVar

from tools.benchmark import machine
from tools.benchmark.contenders import Mounted

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"1 MiB": MIB, "256 KiB": 256 * KIB, "32 KiB": 32 * KIB, "4 KiB": 4 * KIB}
CLIENTS = 4
SMALL_BYTES = 3000
LAST_WITH_FEW_FILES = "create and unlink, 1/s"  # memory grows with known ones
_FILES_A_FOLDER = 100
_RUNS_OF_TREES = 3  # they take half of the time as it is
_CLIENT_SECONDS = 60
_BLOCK = os.urandom(MIB)
_CREATE = os.O_WRONLY | os.O_CREAT

Item = TypeVar("Item")
Span = tuple[float, float]  # when it began and ended
Timed = Callable[[], float]  # does it, and tells the seconds
Prepare = Callable[[Mounted], AbstractContextManager[Timed]]


@dataclass(frozen=True, slots=True)
class Work:
    """One row. `prepare` makes a mount ready, gives what is timed, and tidies up behind it.

    `runs` are counted unless the command line says how many.

    `amount` is in the label's unit. `pieces` are the writes or files, so named by `piece`, for each
    of which CPU time of the daemon is told; 0 where it is not. `is_forgotten` says whether the
    kernel is to forget names and attributes before each call.
    """

    label: str
    amount: float
    prepare: Prepare
    pieces: int = 0
    piece: str = "write"
    is_forgotten: bool = False
    runs: int = 5


@dataclass(frozen=True, slots=True)
class Tree:
    """What is copied: a folder of small files, and an archive of it."""

    folder: Path
    archive: Path
    files: int

    @classmethod
    def made(cls, place: Path, quick: bool) -> Self:
        tree = cls(place / "tree", place / "tree.tar", 1000 if quick else 4000)
        for number in range(tree.files):
            folder = tree.folder / f"{number // _FILES_A_FOLDER}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}").write_bytes(os.urandom(SMALL_BYTES))
        machine.run("tar", "-C", place, "-cf", tree.archive, tree.folder.name)
        return tree


def works(tree: Tree, quick: bool) -> Iterator[Work]:
    """In the order of their rows."""
    for name, size in SIZES.items():
        total = _total_bytes(size, quick)
        data, zeros = [_BLOCK[at : at + size] for at in range(0, MIB, size)], [bytes(size)]
        contents: dict[str, Prepare] = {
            "new data, O_WRONLY": partial(_new, data, total, os.O_WRONLY),
            "new data, O_RDWR": partial(_new, data, total, os.O_RDWR),
            "equal data": partial(_equal, data, total),
            "zeros": partial(_new, zeros, total, os.O_WRONLY),
        }
        for kind, prepare in contents.items():
            pieces = total // size if kind.startswith("new data") else 0
            yield Work(f"write {kind}, {name}, MB/s", total / 1e6, prepare, pieces)
        if name in {"256 KiB", "4 KiB"}:
            at_once = CLIENTS * total if size == 4 * KIB else total
            label = f"write new data, O_WRONLY, {name}, four clients, MB/s"
            clients = partial(_by_clients, data, at_once // CLIENTS)
            yield Work(label, at_once / 1e6, clients, at_once // size)
    total, files, listed = _total_bytes(MIB, quick), *((250, 2500) if quick else (1000, 10_000))
    yield Work("read, 1 MiB, MB/s", total / 1e6, partial(_read, total))
    yield Work("stat, 1/s", files, partial(_stat, files))
    yield Work(LAST_WITH_FEW_FILES, files, partial(_create_and_unlink, files))
    label = f"create, write {SMALL_BYTES:,} bytes, close, files/s"
    yield Work(label, files, partial(_small_files, files), files, "file")
    for tool, prepare in _tools(tree).items():
        label = f"{tool}, {tree.files:,} files of {SMALL_BYTES:,} bytes, files/s"
        yield Work(label, tree.files, prepare, tree.files, "file", runs=_RUNS_OF_TREES)
    label = f"list {listed:,} files with attributes, 1/s"
    yield Work(label, listed, partial(_list, listed), is_forgotten=True)


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


def _write(
    path: Path, flags: int, contents: list[bytes], total: int, wait: Callable[[], object] = int
) -> Span:
    """One content after the other, and again from the first one, from the start of a file."""
    requests = list(zip(range(0, total, len(contents[0])), itertools.cycle(contents)))
    fd = os.open(path, flags, 0o644)
    wait()
    begun = time.perf_counter()
    for offset, content in requests:
        os.pwrite(fd, content, offset)
    ended = time.perf_counter()
    os.close(fd)
    return begun, ended


def _seconds(spans: Iterable[Span]) -> float:
    begins, ends = zip(*spans, strict=True)
    return float(max(ends) - min(begins))


@contextmanager
def _new(contents: list[bytes], total: int, mode: int, mount: Mounted) -> Iterator[Timed]:
    path = mount.path / "new.dat"
    yield lambda: _seconds([_write(path, mode | os.O_CREAT, contents, total)])
    path.unlink()


@contextmanager
def _equal(contents: list[bytes], total: int, mount: Mounted) -> Iterator[Timed]:
    path = _filled(mount, total)
    yield lambda: _seconds([_write(path, os.O_WRONLY, contents, total)])


@contextmanager
def _by_clients(contents: list[bytes], total: int, mount: Mounted) -> Iterator[Timed]:
    """Each a process that writes `total` bytes of new data to a file of its own."""
    paths = [mount.path / f"client-{number}.dat" for number in range(CLIENTS)]
    yield lambda: _seconds(_spans_of_clients(contents, total, paths))
    for path in paths:
        path.unlink()


def _spans_of_clients(contents: list[bytes], total: int, paths: list[Path]) -> list[Span]:
    # Processes rather than threads, which would wait for each other's turn at the interpreter.
    context = get_context("fork")
    barrier, spans = context.Barrier(len(paths)), context.SimpleQueue()
    wait = partial(barrier.wait, _CLIENT_SECONDS)

    def client(path: Path) -> None:
        try:
            spans.put(_write(path, _CREATE, contents, total, wait))
        except BaseException:
            barrier.abort()  # the others need not wait for this one
            raise

    clients = [context.Process(target=client, args=(path,)) for path in paths]
    for process in clients:
        process.start()
    for process in clients:
        process.join()
    if any(process.exitcode for process in clients):
        raise SystemExit("a client could not write")
    return [spans.get() for _ in clients]


@contextmanager
def _read(total: int, mount: Mounted) -> Iterator[Timed]:
    """The mount has nothing of the file in its cache, the folder below all."""
    path = _filled(mount, total)
    machine.make_cold(path)
    machine.read_through(mount.backing / path.name)
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        yield lambda: _each(lambda offset: os.pread(fd, MIB, offset), range(0, total, MIB))


def _filled(mount: Mounted, total: int) -> Path:
    """A file of the block over and over, made once; `total` bytes or more."""
    path = mount.path / "filled.dat"
    if not path.exists() or path.stat().st_size < total:
        path.write_bytes(_BLOCK * (total // MIB))
    return path


@contextmanager
def _stat(count: int, mount: Mounted) -> Iterator[Timed]:
    paths = _populated(mount.path / "many", count)
    time.sleep(1.1)  # attributes hold for a second
    yield lambda: _each(os.stat, paths)


@contextmanager
def _create_and_unlink(count: int, mount: Mounted) -> Iterator[Timed]:
    def create_and_unlink(path: str) -> None:
        os.close(os.open(path, _CREATE, 0o644))
        os.unlink(path)

    paths = [f"{mount.path}/new-{number}" for number in range(count)]
    yield lambda: _each(create_and_unlink, paths)


@contextmanager
def _small_files(count: int, mount: Mounted) -> Iterator[Timed]:
    def create(path: str) -> None:
        fd = os.open(path, _CREATE, 0o644)
        os.write(fd, content)
        os.close(fd)

    content, folder = _BLOCK[:SMALL_BYTES], mount.path / "small"
    folder.mkdir()
    yield lambda: _each(create, [f"{folder}/{number}" for number in range(count)])
    shutil.rmtree(folder)


@contextmanager
def _list(count: int, mount: Mounted) -> Iterator[Timed]:
    """What `ls -l` does. In the first turn, which does not count, the kernel knows all files."""
    folder = mount.path / "listed"
    _populated(folder, count)
    with os.scandir(folder) as entries:
        yield lambda: _each(lambda entry: entry.stat(follow_symlinks=False), entries)


def _populated(many: Path, count: int) -> list[str]:
    """Paths of empty files in a folder that is made once."""
    paths = [f"{many}/{number}" for number in range(count)]
    if not many.exists():
        many.mkdir()
        for path in paths:
            Path(path).touch()
    return paths


def _tools(tree: Tree) -> dict[str, Prepare]:
    """By its words, what makes a copy of the tree in a mount, and what removes one."""
    copiers: dict[str, list[str | Path]] = {
        "cp -r": ["cp", "-r", tree.folder],
        "rsync -a": ["rsync", "-a", tree.folder],
        "tar -x": ["tar", "-xf", tree.archive, "-C"],
    }
    found: dict[str, Prepare] = {
        name: partial(_copy, tree, words) for name, words in copiers.items()
    }
    return found | {"rm -r": partial(_remove, tree)}


@contextmanager
def _copy(tree: Tree, words: list[str | Path], mount: Mounted) -> Iterator[Timed]:
    yield lambda: _each(lambda place: machine.run(*words, place), [mount.path])
    shutil.rmtree(mount.path / tree.folder.name)


@contextmanager
def _remove(tree: Tree, mount: Mounted) -> Iterator[Timed]:
    machine.run("cp", "-r", tree.folder, mount.path)
    copy = mount.path / tree.folder.name
    yield lambda: _each(lambda place: machine.run("rm", "-r", place), [copy])
