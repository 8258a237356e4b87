"""`tools/test --quick` selects what needs neither root nor a mount, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.privileges import reaches_root
from tests.tools import samples

TOP = Path(__file__).parents[2]
FOR_ROOT = sorted(name for name in vars(samples) if name.startswith("by_"))


def selected(name: str, *words: str) -> set[str]:
    """The tests of a file, without their parameters, that are selected with these words."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *words, name]
    environment = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    done = subprocess.run(
        command, cwd=TOP, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}, done.stdout
    return {
        line.partition("[")[0].rpartition("::")[2]
        for line in done.stdout.splitlines()
        if "::" in line
    }


@pytest.mark.parametrize("name", FOR_ROOT)
def test_function_that_needs_root_is_seen(name: str) -> None:
    assert reaches_root(getattr(samples, name))


def test_function_that_needs_no_root_is_seen() -> None:
    assert not reaches_root(samples.without_any)


def test_quick_leaves_out_tests_whose_fixture_mounts() -> None:
    name = "tests/faults/test_guard.py"
    pure = {"test_calls_try_every_handler"}
    assert selected(name, "--quick") == pure
    assert selected(name) > pure


def test_quick_leaves_out_tests_that_mount_themselves() -> None:
    name = "tests/faults/test_dead_disk.py"
    assert selected(name, "--quick") == set()
    assert len(selected(name)) == 2


def test_quick_keeps_tests_of_decisions() -> None:
    name = "tests/tools/test_benchmark.py"
    assert selected(name, "--quick") == selected(name) != set()
