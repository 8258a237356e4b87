"""The demonstration: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.commands import MIRRORFS, mirrorfs, wait_for


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_shows_that_only_changed_blocks_are_written(tmp_path: Path) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    (elsewhere / "mirrorfs").mkdir(parents=True)
    (elsewhere / "mirrorfs" / "__init__.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run(
        [MIRRORFS[0], "-P", *MIRRORFS[1:], "demo", "--json", "--folder", work],
        capture_output=True,
        text=True,
        check=True,
        cwd=elsewhere,
    )
    rows = {(row["night"], row["way"]): row for row in json.loads(done.stdout)["copies"]}
    night = rows["after a night", "with mirrorfs"]
    assert night["received_bytes"] == 2 << 30
    assert night["written_bytes"] < rows["after a night", "rsync -S"]["written_bytes"] / 10
    assert night["allocated_bytes"] < night["received_bytes"] / 3
    assert os.listdir(work) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("made", "number"),
    [
        ("source", signal.SIGINT),  # the image is being made
        ("mirror", signal.SIGHUP),  # it is about to be mounted
        ("backing/*vm.img*", signal.SIGTERM),  # it is being copied through the mount
    ],
)
def test_an_interrupted_demo_removes_its_mount_and_its_folder(
    tmp_path: Path, made: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [*MIRRORFS, "demo", "--folder", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: list(tmp_path.glob(f"mirrorfs-demo-*/{made}")), seconds=500)
    os.killpg(process.pid, number)  # as a terminal does
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_the_demo_names_a_folder_that_does_not_exist() -> None:
    done = mirrorfs("demo", "--folder", "/nowhere", check=False)
    assert done.returncode == 1
    assert "/nowhere: no such folder" in done.stderr
