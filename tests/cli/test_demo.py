"""The demonstration keeps its word, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import MIRRORFS, mirrorfs


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_mount_writes_what_changed_and_nothing_more(tmp_path: Path) -> None:
    done = subprocess.run(
        [*MIRRORFS, "demo", "--json", "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {(row["night"], row["way"]): row for row in json.loads(done.stdout)["copies"]}
    night = rows["after a night", "with mirrorfs"]
    assert night["received_bytes"] == 2 << 30
    assert night["written_bytes"] < rows["after a night", "rsync -S"]["written_bytes"] / 10
    assert night["allocated_bytes"] < night["received_bytes"] / 3
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 6, 14])
def test_an_interrupted_demonstration_leaves_nothing(tmp_path: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [*MIRRORFS, "demo", "--folder", tmp_path], stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_folder_that_is_not_there_is_named() -> None:
    done = mirrorfs("demo", "--folder", "/nowhere", check=False)
    assert done.returncode == 1
    assert "/nowhere: no such folder" in done.stderr
