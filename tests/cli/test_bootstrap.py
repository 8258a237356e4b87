"""The set-up, in a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_set_up_says_one_line_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    checkout, temporary = tmp_path / "checkout", tmp_path / "temporary"
    temporary.mkdir()
    shutil.copytree(
        TOP, checkout, ignore=shutil.ignore_patterns(".venv", ".git", "tests", "__pycache__", ".*")
    )
    process = subprocess.Popen(
        [checkout / "tools/bootstrap", "--test"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    assert process.stderr
    assert "setting up" in process.stderr.readline()
    time.sleep(1)
    os.killpg(process.pid, number)
    _, printed = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert printed.splitlines()[-1] == "bootstrap: interrupted; run it again to go on"
    assert "Traceback" not in printed
    assert os.listdir(temporary) == []
