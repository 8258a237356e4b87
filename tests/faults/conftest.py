"""A mount that fails on demand."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.commands import run, wait_for
from tests.mounted import STATE_FOLDERS, Mirror

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class FaultyMirror(Mirror):
    """`order(text)` says what shall go wrong from now on; an empty text: nothing."""

    orders: Path
    daemon: subprocess.Popen[bytes]

    def order(self, text: str = "") -> None:
        self.orders.write_text(text)

    @property
    def alive(self) -> bool:
        return self.daemon.poll() is None


@contextlib.contextmanager
def faulty_mounted(backing: Path, folder: Path) -> Iterator[FaultyMirror]:
    """A mount of `backing` that fails on demand; what belongs to it lies in `folder`."""
    point, orders, log = folder / "faulty", folder / "orders", folder / "faulty.log"
    point.mkdir()
    orders.write_text("")
    mirror = FaultyMirror(backing, point, log)
    STATE_FOLDERS.add(mirror.state_folder)
    mirror.orders = orders
    options = f"log={log},attr_timeout=0"
    words: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.faults.driver",
        orders,
        "mount",
        backing,
        point,
    ]
    mirror.daemon = subprocess.Popen([*words, "-f", "-o", options])
    try:
        wait_for(lambda: point.is_mount() or not mirror.alive)
        yield mirror
    finally:
        mirror.order()
        run("umount", "--lazy", point, check=False)
        mirror.daemon.wait(60)


@pytest.fixture
def faulty(ext4_folder: Path, tmp_path: Path) -> Iterator[FaultyMirror]:
    """A mount of its own for a test."""
    with faulty_mounted(ext4_folder, tmp_path) as mirror:
        yield mirror


@pytest.fixture(scope="session")
def shared_faulty(
    file_systems: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultyMirror]:
    """One for all tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("shared")
    backing = file_systems("ext4") / f"{folder.name}-faulty"
    backing.mkdir()
    with faulty_mounted(backing, folder) as mirror:
        yield mirror
