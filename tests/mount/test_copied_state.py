"""A copy of a backing folder, with its state folder, is written back through a mount."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
RECOVERY_ATTRIBUTE = "user.mirrorfs.unsettled"
WAYS = {
    "rsync": ["rsync", "-aHAX", "{copy}/", "{target}/"],
    "rsync --delete": ["rsync", "-a", "--delete", "--inplace", "{copy}/", "{target}/"],
    "cp": ["cp", "-a", "{copy}/.", "{target}/"],
    "tar": ["sh", "-c", "tar -C {copy} -cf - . | tar -C {target} -xf -"],
}


@pytest.fixture
def copied(ext4_folder: Path, tmp_path: Path, mount_mirror: Callable[..., Mirror]) -> Path:
    """A copy of a backing folder in which a file was replaced."""
    backing = ext4_folder / "first"
    backing.mkdir()
    mirror = mount_mirror(backing)
    for _ in range(2):
        (mirror.path / "image").write_bytes(os.urandom(2 * MIB))
    mirror.umount()
    shutil.copytree(backing, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy/.mirrorfs")) == [
        "catalog.sqlite3",
        "digests",
        "format.json",
        "unsettled",
    ]
    return tmp_path / "copy"


@pytest.mark.parametrize("control", ["", "control=.other"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_with_its_state_folder_is_written_back_without_noise(
    copied: Path,
    ext4_folder: Path,
    mount_mirror: Callable[..., Mirror],
    way: str,
    control: str,
) -> None:
    backing = ext4_folder / "second"
    backing.mkdir()
    mirror = mount_mirror(backing, control)
    for _ in range(2):
        words = [word.format(copy=copied, target=mirror.path) for word in WAYS[way]]
        done = run(*words, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert mirror.read("image") == (copied / "image").read_bytes()
    assert os.listdir(mirror.path) == ["image"]
    marker = backing / ".mirrorfs/format.json"
    theirs = (copied / ".mirrorfs/format.json").read_text()
    assert not marker.exists() or marker.read_text() != theirs


def test_a_dropped_file_can_be_used_like_any_other(mirror: Mirror) -> None:
    folder = mirror.path / ".mirrorfs"
    with (folder / ".unsettled.Ab12Cd").open("wb") as file:
        file.write(b"x" * 5000)
    os.chmod(folder / ".unsettled.Ab12Cd", 0o640)
    os.utime(folder / ".unsettled.Ab12Cd", ns=(5, 7))
    os.rename(folder / ".unsettled.Ab12Cd", folder / "unsettled")
    status = os.stat(folder / "unsettled")
    assert (status.st_size, status.st_mode & 0o777, status.st_mtime_ns) == (5000, 0o640, 7)
    assert (folder / "unsettled").read_bytes() == b""
    os.unlink(folder / "unsettled")
    with pytest.raises(FileNotFoundError):
        os.stat(folder / "unsettled")
    assert not (mirror.backing / ".mirrorfs").exists()


def test_only_files_of_a_state_folder_are_accepted_and_dropped(mirror: Mirror) -> None:
    """What a user means to keep must not vanish."""
    folder = mirror.path / ".mirrorfs"
    for call in (
        lambda: (folder / "notes").write_text("mine"),
        lambda: os.mkdir(folder / "images"),
        lambda: os.rename(folder / "stats", folder / "unsettled"),
    ):
        with pytest.raises(PermissionError):
            call()
    os.mkdir(folder / "unsettled")
    mirror.write("file", 0, b"x")
    with pytest.raises(PermissionError):
        os.rename(mirror.path / "file", folder / "unsettled/file")


def test_a_control_file_is_still_there_after_it_was_deleted(mirror: Mirror) -> None:
    os.unlink(mirror.path / ".mirrorfs/stats")
    assert (mirror.path / ".mirrorfs/stats").read_text().startswith("received_bytes 0\n")


def test_the_recovery_attribute_of_another_file_is_not_kept(mirror: Mirror) -> None:
    mirror.write("file", 0, b"x" * MIB)
    os.setxattr(mirror.path / "file", RECOVERY_ATTRIBUTE, b"\3" * 51)
    assert os.listxattr(mirror.backing / "file") == []
