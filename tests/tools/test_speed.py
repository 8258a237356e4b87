"""Speed: each piece of work does what its row says; what its rows become."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from tools.benchmark import against, speed, works
from tools.benchmark.contenders import LL, MIRROR, Mounted
from tools.benchmark.figures import LESS, MORE, Figure
from tools.benchmark.speed import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.benchmark.figures import Ratio
    from tools.benchmark.works import Tree, Work

CPU = "CPU of the daemon, \N{MICRO SIGN}s a write"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return works.Tree.made(tmp_path_factory.mktemp("source"), quick=True)


@pytest.fixture
def plain(tmp_path: Path) -> Mounted:
    (tmp_path / "plain").mkdir()
    return Mounted(tmp_path / "plain", tmp_path / "plain")


def chosen(tree: Tree, start: str) -> list[Work]:
    found = [work for work in works.works(tree, quick=True) if work.label.startswith(start)]
    assert found
    return found


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_new_data_is_as_long_as_its_row_says_and_is_gone_afterwards(
    tree: Tree, plain: Mounted
) -> None:
    for work in chosen(tree, "write new data"):
        with work.prepare(plain) as timed:
            assert files(plain.path) == []
            assert timed() > 0
            sizes = [path.stat().st_size for path in files(plain.path)]
            assert sum(sizes) == work.amount * 1e6
            assert len(sizes) == (works.CLIENTS if "four clients" in work.label else 1)
        assert files(plain.path) == []


def test_requests_are_as_large_as_their_row_says(tree: Tree) -> None:
    for work in chosen(tree, "write new data"):
        size = next(size for name, size in works.SIZES.items() if f", {name}," in work.label)
        assert work.pieces * size == work.amount * 1e6


def test_equal_data_is_what_the_file_holds(tree: Tree, plain: Mounted) -> None:
    for work in chosen(tree, "write equal data"):
        with work.prepare(plain) as timed:
            before = (plain.path / "filled.dat").read_bytes()
            timed()
        assert (plain.path / "filled.dat").read_bytes() == before


def test_zeros_are_written_over_a_hole(tree: Tree, plain: Mounted) -> None:
    for work in chosen(tree, "write zeros"):
        with work.prepare(plain) as timed:
            assert files(plain.path) == []
            timed()
            assert not any((plain.path / "new.dat").read_bytes())


@pytest.mark.parametrize("start", ["create, write", "cp -r", "rsync -a", "tar -x"])
def test_small_files_are_all_there_and_are_gone_afterwards(
    start: str, tree: Tree, plain: Mounted
) -> None:
    (work,) = chosen(tree, start)
    with work.prepare(plain) as timed:
        timed()
        sizes = [path.stat().st_size for path in files(plain.path)]
        assert sizes == [works.SMALL_BYTES] * work.pieces
    assert list(plain.path.iterdir()) == []


def test_a_whole_copy_is_removed(tree: Tree, plain: Mounted) -> None:
    (work,) = chosen(tree, "rm -r")
    with work.prepare(plain) as timed:
        assert len(files(plain.path)) == work.pieces
        timed()
        assert list(plain.path.iterdir()) == []


@pytest.mark.parametrize("start", ["read", "stat", "create and unlink", "list"])
def test_a_turn_leaves_what_the_next_one_finds(start: str, tree: Tree, plain: Mounted) -> None:
    (work,) = chosen(tree, start)
    left = []
    for _ in range(2):
        with work.prepare(plain) as timed:
            timed()
        left.append({path: path.stat().st_ino for path in plain.path.rglob("*")})
    assert left[0] == left[1]


def test_a_client_that_cannot_write_ends_the_run(tree: Tree, plain: Mounted) -> None:
    work = next(work for work in chosen(tree, "write new") if "four clients" in work.label)
    (plain.path / "client-0.dat").mkdir()
    with pytest.raises(SystemExit, match="a client"), work.prepare(plain) as timed:
        timed()


def test_cpu_time_stands_beside_the_speed_of_new_data_and_small_files(
    tree: Tree, plain: Mounted
) -> None:
    @contextmanager
    def ready(_: Mounted) -> Iterator[works.Timed]:
        yield lambda: 0.5

    labels = [
        label
        for work in works.works(tree, quick=True)
        for label in speed.rows_of(
            works.Work(work.label, 1, ready, work.pieces, work.piece), {MIRROR: plain}, 1
        )
    ]
    beside = {label.partition(", CPU")[0] for label in labels if ", CPU of the daemon" in label}
    fast = {label.rpartition(", ")[0] for label in labels if ", CPU" not in label}
    small = re.compile("create, write|cp|rsync|tar|rm")
    assert beside == {at for at in fast if at.startswith("write new") or small.match(at)}


def test_daemon_that_needs_more_for_a_request_has_become_worse() -> None:
    def ratios(cpu: float, rate: float) -> dict[str, Ratio]:
        rows = {
            CPU: Row({LL: Figure((10.0,)), MIRROR: Figure((cpu,))}, LESS),
            "MB/s": Row({LL: Figure((10.0,)), MIRROR: Figure((rate,))}, MORE),
        }
        return speed.ratios(rows)

    old = {name: asdict(ratio) for name, ratio in ratios(20, 20).items()}
    found = against.compare({"ratios": old}, ratios(30, 30))
    assert [(change.name, change.is_worse) for change in found] == [
        (f"speed: {CPU} (/ {LL})", True),
        (f"speed: MB/s (/ {LL})", False),
    ]
