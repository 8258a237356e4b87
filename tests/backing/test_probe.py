"""What a file system is found to be able to do."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.probe import Abilities, probe, probe_at
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def probed(folder: Path, writable: bool = True) -> Abilities:
    fd = os.open(folder, os.O_RDONLY)
    try:
        return probe(fd, writable)
    finally:
        os.close(fd)


def probed_at(path: Path, writable: bool = True) -> Abilities:
    fd = os.open(path, os.O_PATH)
    try:
        return probe_at(fd, writable)
    finally:
        os.close(fd)


@contextlib.contextmanager
def mounted(point: Path, kind: str, options: str) -> Iterator[Path]:
    point.mkdir()
    run("mount", "-t", kind, "-o", options, "none", point)
    try:
        yield point
    finally:
        run("umount", "--lazy", point)


@pytest.mark.parametrize(("kind", "clone"), [("ext4", False), ("xfs", True), ("btrfs", True)])
def test_probe_of_a_file_system_on_a_disk(
    file_systems: Callable[[str], Path], tmp_path: Path, kind: str, clone: bool
) -> None:
    folder = file_systems(kind) / tmp_path.name
    folder.mkdir()
    found = probed(folder)
    assert found == Abilities(kind, 4096, punch=True, seek_proven=True, clone=clone)
    assert probed_at(folder) == found
    assert os.listdir(folder) == []
    assert found.growth_leaves_blocks == (kind != "ext4")


def test_probe_of_a_tmpfs(tmp_path: Path) -> None:
    with mounted(tmp_path / "point", "tmpfs", "size=64m") as folder:
        found = probed(folder)
    assert found == Abilities("tmpfs", 4096, punch=True, seek_proven=True)


def test_probe_of_a_file_system_without_holes_says_so(tmp_path: Path) -> None:
    with mounted(tmp_path / "point", "ramfs", "mode=700") as folder:
        found = probed(folder)
    assert not found.punch
    assert not found.seek_proven
    assert found.reason == "the file system does not know holes"
    assert not found.growth_leaves_blocks


@pytest.mark.parametrize(
    ("options", "reason"), [("nr_inodes=1", "there is no space to try it"), ("size=4k", "")]
)
def test_probe_of_a_full_disk_proves_nothing(tmp_path: Path, options: str, reason: str) -> None:
    with mounted(tmp_path / "point", "tmpfs", options) as folder:
        found = probed(folder)
    assert found == Abilities("tmpfs", 4096, punch=True, seek_proven=False, reason=reason)


def test_probe_without_permission_to_write_proves_nothing(ext4_folder: Path) -> None:
    found = probed(ext4_folder, writable=False)
    assert found.punch
    assert not found.seek_proven
    assert found.reason == "not tried on a read-only mount"


def test_probe_of_a_read_only_mount_is_an_error_and_probe_at_goes_on(
    ext4_folder: Path, tmp_path: Path
) -> None:
    point = tmp_path / "point"
    point.mkdir()
    run("mount", "--bind", ext4_folder, point)
    try:
        run("mount", "-o", "remount,bind,ro", point)
        with pytest.raises(OSError, match="Read-only"):
            probed(point)
        assert probed_at(point) == probed(ext4_folder, writable=False)
    finally:
        run("umount", "--lazy", point)


def test_probe_at_of_what_is_no_folder_trusts_nothing(ext4_folder: Path) -> None:
    (ext4_folder / "file").write_bytes(b"")
    os.mkfifo(ext4_folder / "fifo")
    for name in ("file", "fifo"):
        found = probed_at(ext4_folder / name)
        assert found == Abilities("ext4", 4096, punch=True, seek_proven=False)
    assert sorted(os.listdir(ext4_folder)) == ["fifo", "file"]
