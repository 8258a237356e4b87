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
from tests.commands import PRELOADED, run
from tests.crash.test_stale_tail_after_a_kill import LIST, kill, make, remount_and_check
from tests.model.test_seed_model import BLOCK, MIB, Folder, old_content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror


def leave_stale_tail(mirror: Mirror, name: str = "file") -> Folder:
    made = make(mirror, name)
    made.reopen(empty=True)
    made.next(0, 8 * BLOCK, "old", 1)
    return made


@pytest.fixture
def ext4_mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder)


def test_recovery_list_whose_last_line_is_cut_off_is_read(ext4_mirror: Mirror) -> None:
    made = leave_stale_tail(ext4_mirror)
    kill(ext4_mirror, [made])
    with (ext4_mirror.backing / LIST).open("ab") as file:
        file.write(b"+ 2 123")
    remount_and_check(ext4_mirror, [made])


def test_recovery_list_of_half_a_line_does_not_swallow_the_next(ext4_mirror: Mirror) -> None:
    first = leave_stale_tail(ext4_mirror, "first")
    kill(ext4_mirror, [first])
    remount_and_check(ext4_mirror, [first])
    ext4_mirror.umount()
    (ext4_mirror.backing / LIST).write_bytes(b"+ 2 123")
    ext4_mirror.mount()
    second = leave_stale_tail(ext4_mirror, "second")
    kill(ext4_mirror, [second])
    remount_and_check(ext4_mirror, [first, second])


def test_listed_file_is_found_where_it_was_moved_to(ext4_mirror: Mirror) -> None:
    gone, moved = (leave_stale_tail(ext4_mirror, name) for name in ("gone", "moved"))
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
    made = leave_stale_tail(mirror)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    copied = mount_mirror(copy())
    assert copied.read("file") == b""
    copied.umount()
    remount_and_check(mirror, [made])


def test_mount_of_a_copy_leaves_the_original_alone(
    mirror: Mirror, mount_mirror: Callable[..., Mirror]
) -> None:
    other = mirror.backing.with_name(f"{mirror.backing.name}-copy")
    check_copy(mirror, mount_mirror, lambda: shutil.copytree(mirror.backing, other))


def test_mount_of_a_snapshot_leaves_the_original_alone(
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


def test_listed_file_that_was_replaced_is_left_alone(ext4_mirror: Mirror) -> None:
    made = leave_stale_tail(ext4_mirror)
    kill(ext4_mirror, [made])
    made.backing.unlink()
    made.file.content[:] = old_content()
    made.backing.write_bytes(made.file.content)
    remount_and_check(ext4_mirror, [made])


def test_listed_file_that_is_finalised_already_is_left_alone(ext4_mirror: Mirror) -> None:
    made, other = leave_stale_tail(ext4_mirror), leave_stale_tail(ext4_mirror, "other")
    made.close_all()
    made.open(made.path)
    made.write(MIB, 100_000, "new", 8)
    kill(ext4_mirror, [made, other])
    path = ext4_mirror.backing / LIST
    lines = path.read_bytes().splitlines(keepends=True)
    assert [line[:4] for line in lines] == [b"+ 1 ", b"+ 2 ", b"- 1\n"]
    path.write_bytes(b"".join(lines[:2]))
    remount_and_check(ext4_mirror, [made, other])


def test_recovery_list_holds_odd_paths(ext4_mirror: Mirror) -> None:
    names = ["a b\nc", "%41 +", "é\udcff"]
    folders = [leave_stale_tail(ext4_mirror, name) for name in names]
    kill(ext4_mirror, folders)
    remount_and_check(ext4_mirror, folders)


def mount_fails(mirror: Mirror, options: str, code: ExitCode, message: str) -> None:
    done = PRELOADED.run("mount", f"{mirror.backing}", f"{mirror.path}", "-o", options)
    assert done.returncode == code
    assert message in done.stderr
    assert not os.path.ismount(mirror.path)


def test_read_only_mount_with_stale_tails_is_refused(ext4_mirror: Mirror) -> None:
    made = leave_stale_tail(ext4_mirror)
    kill(ext4_mirror, [made])
    ext4_mirror.umount()
    before = made.backing.read_bytes()
    said = "has left files unfinished (1, the first is file); mount it once without 'ro'"
    mount_fails(ext4_mirror, "ro", ExitCode.BACKING, said)
    assert made.backing.read_bytes() == before
    remount_and_check(ext4_mirror, [made])
    ext4_mirror.umount()
    ext4_mirror.options = "ro"
    remount_and_check(ext4_mirror, [made])


@pytest.mark.parametrize("option", ["basis=off", "unchanged=write"])
def test_stale_tail_is_finalised_by_a_mount_without_seeds(ext4_mirror: Mirror, option: str) -> None:
    made = leave_stale_tail(ext4_mirror)
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
def test_state_folder_that_is_not_understood_is_refused(
    ext4_mirror: Mirror, text: str, message: str
) -> None:
    made = leave_stale_tail(ext4_mirror)
    kill(ext4_mirror, [made])
    ext4_mirror.umount()
    path = ext4_mirror.backing / ".mirrorfs/format.json"
    known = path.read_text()
    path.write_text(text)
    mount_fails(ext4_mirror, "rw", ExitCode.STATE_DAMAGED, message)
    path.write_text(known)
    remount_and_check(ext4_mirror, [made])


def test_state_folder_elsewhere_holds_the_recovery_list(
    ext4_mirror: Mirror, tmp_path: Path
) -> None:
    ext4_mirror.umount()
    shutil.rmtree(ext4_mirror.backing / ".mirrorfs", ignore_errors=True)
    for inside in (ext4_mirror.backing / "state", ext4_mirror.backing):
        mount_fails(ext4_mirror, f"state={inside}", ExitCode.USAGE, "lies in the backing folder")
    ext4_mirror.options = f"state={tmp_path}/state"
    ext4_mirror.mount()
    made = leave_stale_tail(ext4_mirror)
    assert (tmp_path / "state/unsettled").stat().st_size
    kill(ext4_mirror, [made])
    remount_and_check(ext4_mirror, [made])
    assert not (tmp_path / "state/unsettled").stat().st_size
    assert not (ext4_mirror.backing / ".mirrorfs").exists()
