"""A mount that fails on demand."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import STATE_FOLDERS, Mirror, run

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@pytest.fixture
def faulty(ext4_folder: Path, tmp_path: Path) -> Iterator[FaultyMirror]:
    point, orders, log = tmp_path / "faulty", tmp_path / "orders", tmp_path / "faulty.log"
    point.mkdir()
    orders.write_text("")
    mirror = FaultyMirror(ext4_folder, point, log)
    STATE_FOLDERS.add(mirror.state_folder)
    mirror.orders = orders
    options = f"log={log},attr_timeout=0"
    words = [sys.executable, "-m", "tests.faults.driver", orders, "mount", ext4_folder, point]
    mirror.daemon = subprocess.Popen([*words, "-f", "-o", options])
    for _ in range(200):
        if point.is_mount():
            break
        time.sleep(0.05)
    yield mirror
    mirror.order()
    run("umount", "--lazy", point, check=False)
    mirror.daemon.wait(20)
