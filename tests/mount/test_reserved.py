"""Space that a client has reserved: it stays with the file until that is truncated to nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.posix.checks import said
from tests.posix.space import KEEP_SIZE, fallocate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
CONTENT = os.urandom(4 * MIB)


def put(path: Path) -> None:
    """Write the content as cp does."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(CONTENT), MIB):
            file.write(CONTENT[start : start + MIB])


def written(mirror: Mirror) -> int:
    """What a copy of the same writes."""
    before = mirror.counters().written_bytes
    put(mirror.path / "image")
    return int(mirror.counters().written_bytes - before)


def reserve(path: Path, size: int, mode: int = KEEP_SIZE) -> object:
    fd = os.open(path, os.O_WRONLY)
    try:
        return said(fallocate, fd, mode, 0, size)
    finally:
        os.close(fd)


@pytest.fixture
def copied(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    mirror = mount_mirror(ext4_folder)
    put(mirror.path / "image")
    return mirror


def test_a_preallocation_that_fails_changes_nothing(copied: Mirror) -> None:
    copied.noisy = True  # for a moment there was no space for the catalog either
    assert reserve(copied.path / "image", 1 << 40, mode=0) == "ENOSPC"
    assert written(copied) == 0


def cut_by_name(path: Path) -> None:
    os.truncate(path, 0)


def cut_while_open(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, 0)
    os.close(fd)


def open_empty(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def cut_when_empty(path: Path) -> None:
    os.truncate(path, 0)
    reserve(path, 16 * MIB)
    os.truncate(path, 0)


@pytest.mark.parametrize("empty", [cut_by_name, cut_while_open, open_empty, cut_when_empty])
def test_a_file_with_reserved_space_is_compared_again_when_it_was_emptied(
    copied: Mirror, empty: Callable[[Path], None]
) -> None:
    assert reserve(copied.path / "image", 16 * MIB) == 4 * MIB
    assert (copied.backing / "image").stat().st_blocks * 512 >= 16 * MIB
    empty(copied.path / "image")
    assert (copied.backing / "image").stat().st_blocks == 0
    assert written(copied) == 4 * MIB
    assert written(copied) == 0


def test_a_copy_over_reserved_space_is_not_compared_and_the_next_one_is(copied: Mirror) -> None:
    reserve(copied.path / "image", 16 * MIB)
    assert [written(copied), written(copied)] == [4 * MIB, 0]


def test_a_file_that_replaces_one_with_reserved_space_is_compared(copied: Mirror) -> None:
    reserve(copied.path / "image", 16 * MIB)
    put(copied.path / "new")
    (copied.path / "new").rename(copied.path / "image")
    assert written(copied) == 0


def test_a_truncation_leaves_space_reserved(copied: Mirror) -> None:
    """The blocks of the file may not be taken for those of a copy that has ended."""
    reserve(copied.path / "image", 4 * MIB)
    os.truncate(copied.path / "image", MIB)
    assert written(copied) == 4 * MIB
