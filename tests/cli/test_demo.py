"""The demonstration keeps its word, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import MIRRORFS, mirrorfs, wait_until_it_listens


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_mount_writes_what_changed_and_nothing_more(tmp_path: Path) -> None:
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
@pytest.mark.parametrize(
    ("seconds", "number"),
    [(0.5, signal.SIGINT), (6, signal.SIGHUP), (14, signal.SIGINT), (20, signal.SIGTERM)],
)
def test_an_interrupted_demonstration_leaves_nothing(
    tmp_path: Path, seconds: float, number: signal.Signals
) -> None:
    """Also when the signal comes again and again, while everything is being removed."""
    process = subprocess.Popen(
        [*MIRRORFS, "demo", "--folder", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until_it_listens(process)
    time.sleep(seconds)
    for _ in range(400):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in told
    if seconds > 1:  # earlier there may be nothing yet
        assert told.splitlines()[-1] == "mirrorfs: interrupted; everything was removed again"
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_folder_that_is_not_there_is_named() -> None:
    done = mirrorfs("demo", "--folder", "/nowhere", check=False)
    assert done.returncode == 1
    assert "/nowhere: no such folder" in done.stderr
