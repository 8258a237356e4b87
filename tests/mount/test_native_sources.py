"""Every C source compiles without a warning, by itself."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SOURCES = sorted((TOP / "mirrorfs").rglob("*.c"))
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]


def test_there_are_sources() -> None:
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_source_compiles_without_a_warning(source: Path, tmp_path: Path) -> None:
    """-O2, since some warnings come with what the optimizer finds out."""
    query = ["pkg-config", "--cflags", "fuse3"]
    flags = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    python = f"-I{sysconfig.get_path('include')}"
    words: list[str | Path] = [
        "gcc",
        "-c",
        "-D_FILE_OFFSET_BITS=64",
        *STRICT,
        python,
        *flags,
        source,
    ]
    done = subprocess.run(
        [*words, "-o", tmp_path / "object"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
