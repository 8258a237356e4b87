"""Whether a read is predicted to move the time of access, and whether the kernel moves it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import atime
from tests.commands import run

if TYPE_CHECKING:
    from pathlib import Path

SECOND_NS = 1_000_000_000
DAY_NS = 24 * 3600 * SECOND_NS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def is_due(path: Path, flags: int) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return atime.is_due(fd, flags)
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", [os.ST_NOATIME, os.ST_RDONLY, os.ST_NOATIME | os.ST_RELATIME])
def test_atime_is_never_due_with_noatime_or_read_only(file: Path, flags: int) -> None:
    os.utime(file, ns=(0, 0))
    assert not is_due(file, flags)


def test_atime_is_always_due_with_strictatime(file: Path) -> None:
    os.utime(file, ns=(time.time_ns() + 100 * SECOND_NS, 0))
    assert is_due(file, 0)


def test_atime_is_due_with_relatime_if_the_file_has_changed_since(file: Path) -> None:
    os.utime(file, ns=(0, 0))  # which moves the ctime
    assert is_due(file, os.ST_RELATIME)
    later = time.time_ns() + 100 * SECOND_NS
    os.utime(file, ns=(later, later + 1))
    assert is_due(file, os.ST_RELATIME)
    os.utime(file, ns=(later + 1, later))
    assert not is_due(file, os.ST_RELATIME)


def test_atime_is_due_with_relatime_after_a_day(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = time.time_ns() + 100 * SECOND_NS
    os.utime(file, ns=(moved, 0))
    monkeypatch.setattr(time, "time_ns", lambda: moved + DAY_NS - 3600 * SECOND_NS)
    assert not is_due(file, os.ST_RELATIME)
    monkeypatch.setattr(time, "time_ns", lambda: moved + DAY_NS)
    assert is_due(file, os.ST_RELATIME)


@pytest.mark.parametrize("rule", ["relatime", "strictatime", "noatime"])
@pytest.mark.parametrize("seconds", [-100, 100])
def test_the_kernel_moves_atime_as_predicted(
    ext4_folder: Path, tmp_path: Path, rule: str, seconds: int
) -> None:
    (ext4_folder / "file").write_bytes(b"content")
    point = tmp_path / "bind"
    point.mkdir()
    run("mount", "--bind", ext4_folder, point)
    try:
        run("mount", "-o", f"remount,bind,{rule}", point)
        before = time.time_ns() + seconds * SECOND_NS
        os.utime(point / "file", ns=(before, 0))
        fd = os.open(point / "file", os.O_RDONLY)
        expected = atime.is_due(fd, atime.mount_flags(fd))
        os.read(fd, 1)
        moved = os.fstat(fd).st_atime_ns != before
        os.close(fd)
    finally:
        run("umount", "--lazy", point)
    assert moved == expected
    assert expected == (rule == "strictatime" or (rule == "relatime" and seconds < 0))
