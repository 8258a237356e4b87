"""A disk of known speed, and a cold cache: what makes seconds comparable from run to run."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROUP = Path("/sys/fs/cgroup/blkio")  # version 1; its root holds for every process
_FILES = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")


def require() -> None:
    if not all((_GROUP / name).exists() for name in _FILES):
        raise SystemExit(
            f"tools/benchmark: no {_GROUP}/{_FILES[0]}: a disk is held to a speed by the blkio"
            " controller of control groups version 1, which is not mounted here"
        )


@contextmanager
def held(stat: Path, mb_s: float | None) -> Iterator[None]:
    """Hold a loop device to so many MB/s of reading and as many of writing; None leaves it free.

    `stat` is the device's file of sector counts, which lies beside its number.
    """
    if mb_s is None:
        yield
        return
    number = (stat.parent / "dev").read_text().strip()
    try:
        _write(number, int(mb_s * 1e6))
        yield
    finally:
        _write(number, 0)


def _write(number: str, bytes_a_second: int) -> None:
    for name in _FILES:
        (_GROUP / name).write_text(f"{number} {bytes_a_second}\n")


def forget(*paths: Path) -> None:
    """Drop what the page cache holds of these files; dirty pages are written first."""
    for path in paths:
        if path.exists():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def require_cold(*paths: Path) -> None:
    """End if the page cache still holds some of these: a figure would not be that of a disk."""
    for path in paths:
        if path.exists():
            held_bytes = _cached_bytes(path)
            if held_bytes > path.stat().st_size // 100:
                raise SystemExit(
                    f"tools/benchmark: {path}: {held_bytes:,} bytes stay in the page cache"
                )


def _cached_bytes(path: Path) -> int:
    told = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", path],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(told.stdout)


def read_through(path: Path) -> None:
    """Read a file once, from wherever it lies."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass
