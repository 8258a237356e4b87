"""What a crash leaves in the state folder, and what becomes of a list or a folder that is damaged,
elsewhere, or not to be written.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from mirrorfs.errors import ExitCode
from tests.conftest import mirrorfs, run
from tests.model.test_seed_model import (
    BLOCK,
    MIB,
    Folder,
    old_content,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mirror
from tests.crash.test_seed_crash import LIST, kill, make, remount_and_check


def leave_unsettled(mirror: Mirror, name: str = "file") -> Folder:
    made = make(mirror, name)
    made.reopen(empty=True)
    made.next(0, 8 * BLOCK, "old", 1)
    return made


@pytest.fixture
def ext4_mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder)


def test_a_list_whose_last_line_is_cut_off(ext4_mirror: Mirror) -> None:
    made = leave_unsettled(ext4_mirror)
    kill(ext4_mirror, [made])
    with (ext4_mirror.backing / LIST).open("ab") as file:
        file.write(b"+ 2 123")
    remount_and_check(ext4_mirror, [made])


def test_a_list_of_half_a_line_does_not_swallow_the_next(ext4_mirror: Mirror) -> None:
    first = leave_unsettled(ext4_mirror, "first")
    kill(ext4_mirror, [first])
    remount_and_check(ext4_mirror, [first])
    ext4_mirror.umount()
    (ext4_mirror.backing / LIST).write_bytes(b"+ 2 123")
    ext4_mirror.mount()
    second = leave_unsettled(ext4_mirror, "second")
    kill(ext4_mirror, [second])
    remount_and_check(ext4_mirror, [first, second])


def test_a_file_that_is_gone_and_one_that_was_moved(ext4_mirror: Mirror) -> None:
    gone, moved = (leave_unsettled(ext4_mirror, name) for name in ("gone", "moved"))
    kill(ext4_mirror, [gone, moved])
    gone.backing.unlink()
    (ext4_mirror.backing / "folder").mkdir()
    moved.backing.rename(ext4_mirror.backing / "folder/new name")
    moved.name = "folder/new name"
    remount_and_check(ext4_mirror, [moved])


def check_copy(
    mirror: Mirror, mount_mirror: Callable[..., Mirror], copy: Callable[[], Path]
) -> None:
    """A copy of a backing folder that a crash has left is mounted, and then the folder itself."""
    made = leave_unsettled(mirror)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    copied = mount_mirror(copy())
    assert copied.read("file") == b""
    copied.umount()
    remount_and_check(mirror, [made])


def test_mounting_a_copy_leaves_the_files_it_was_made_of_alone(
    mirror: Mirror, mount_mirror: Callable[..., Mirror]
) -> None:
    other = mirror.backing.with_name(f"{mirror.backing.name}-copy")
    check_copy(mirror, mount_mirror, lambda: shutil.copytree(mirror.backing, other))


def test_mounting_a_snapshot_leaves_the_files_it_was_made_of_alone(
    file_systems: Callable[[str], Path], tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """In which files have the same numbers, and handles lead to the subvolume it was made of."""
    disk = file_systems("btrfs")
    backing, other = disk / tmp_path.name, disk / f"{tmp_path.name}-snapshot"
    backing.mkdir()

    def take() -> Path:
        run("btrfs", "subvolume", "snapshot", disk, other)
        return other / backing.name

    check_copy(mount_mirror(backing), mount_mirror, take)


def test_a_file_that_was_replaced_is_left_alone(ext4_mirror: Mirror) -> None:
    made = leave_unsettled(ext4_mirror)
    kill(ext4_mirror, [made])
    made.backing.unlink()
    made.file.content[:] = old_content()
    made.backing.write_bytes(made.file.content)
    remount_and_check(ext4_mirror, [made])


def test_a_file_that_is_settled_already_is_left_alone(ext4_mirror: Mirror) -> None:
    made, other = leave_unsettled(ext4_mirror), leave_unsettled(ext4_mirror, "other")
    made.close_all()
    made.open(made.path)
    made.write(MIB, 100_000, "new", 8)
    kill(ext4_mirror, [made, other])
    path = ext4_mirror.backing / LIST
    lines = path.read_bytes().splitlines(keepends=True)
    assert [line[:4] for line in lines] == [b"+ 1 ", b"+ 2 ", b"- 1\n"]
    path.write_bytes(b"".join(lines[:2]))
    remount_and_check(ext4_mirror, [made, other])


def test_odd_paths_are_listed(ext4_mirror: Mirror) -> None:
    names = ["a b\nc", "%41 +", "é\udcff"]
    folders = [leave_unsettled(ext4_mirror, name) for name in names]
    kill(ext4_mirror, folders)
    remount_and_check(ext4_mirror, folders)


def mount_fails(mirror: Mirror, options: str, code: ExitCode, message: str) -> None:
    done = mirrorfs("mount", mirror.backing, mirror.path, "-o", options, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert not os.path.ismount(mirror.path)


def test_read_only_with_unsettled_files_is_refused(ext4_mirror: Mirror) -> None:
    made = leave_unsettled(ext4_mirror)
    kill(ext4_mirror, [made])
    mirrorfs("umount", ext4_mirror.path)
    before = made.backing.read_bytes()
    said = "has left files unfinished (1, the first is file); mount it once without 'ro'"
    mount_fails(ext4_mirror, "ro", ExitCode.BACKING, said)
    assert made.backing.read_bytes() == before
    remount_and_check(ext4_mirror, [made])
    ext4_mirror.umount()
    ext4_mirror.options = "ro"
    remount_and_check(ext4_mirror, [made])


@pytest.mark.parametrize("option", ["basis=off", "unchanged=write"])
def test_without_seeds_what_a_crash_has_left_is_settled_too(
    ext4_mirror: Mirror, option: str
) -> None:
    made = leave_unsettled(ext4_mirror)
    kill(ext4_mirror, [made])
    ext4_mirror.options = option
    remount_and_check(ext4_mirror, [made])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"program": "mirrorfs", "format": 2}), "was made by a newer mirrorfs"),
        ("", "the state folder is damaged"),
        ('{"format"', "the state folder is damaged"),
        ("[]", "the state folder is damaged"),
        ('{"program": "mirrorfs"}', "the state folder is damaged"),
    ],
)
def test_a_state_folder_that_is_not_understood_is_refused(
    ext4_mirror: Mirror, text: str, message: str
) -> None:
    made = leave_unsettled(ext4_mirror)
    kill(ext4_mirror, [made])
    mirrorfs("umount", ext4_mirror.path)
    path = ext4_mirror.backing / ".mirrorfs/format.json"
    known = path.read_text()
    path.write_text(text)
    mount_fails(ext4_mirror, "rw", ExitCode.STATE_DAMAGED, message)
    path.write_text(known)
    remount_and_check(ext4_mirror, [made])


def test_a_state_folder_may_be_elsewhere(ext4_mirror: Mirror, tmp_path: Path) -> None:
    ext4_mirror.umount()
    shutil.rmtree(ext4_mirror.backing / ".mirrorfs", ignore_errors=True)
    for inside in (ext4_mirror.backing / "state", ext4_mirror.backing):
        mount_fails(ext4_mirror, f"state={inside}", ExitCode.USAGE, "lies in the backing folder")
    ext4_mirror.options = f"state={tmp_path}/state"
    ext4_mirror.mount()
    made = leave_unsettled(ext4_mirror)
    assert (tmp_path / "state/unsettled").stat().st_size
    kill(ext4_mirror, [made])
    remount_and_check(ext4_mirror, [made])
    assert not (tmp_path / "state/unsettled").stat().st_size
    assert not (ext4_mirror.backing / ".mirrorfs").exists()
