"""The state folder that a mount is given, and why files get no seeds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.daemon import state_folder
from mirrorfs.errors import InUseError, StateError, UsageError
from mirrorfs.options import parse

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorfs.daemon.mount_spec import StateFolder


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    folder = tmp_path / "backing"
    folder.mkdir()
    return folder


def prepared(backing: Path, options: str = "") -> StateFolder:
    fd = os.open(backing, os.O_RDONLY)
    try:
        found = state_folder.prepare(os.fsencode(backing), fd, parse(options))
    finally:
        os.close(fd)
    if found.lock_fd >= 0:
        os.close(found.lock_fd)
    return found


def test_the_default_lies_in_the_backing_folder_and_is_not_made_yet(backing: Path) -> None:
    found = prepared(backing)
    assert found.path == os.fsencode(backing / ".mirrorfs")
    assert (found.no_seeds, found.lock_fd, found.left) == ("", -1, ())
    assert (found.notes, found.warnings) == ((), ())
    assert os.listdir(backing) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("ro", "mounted read-only"),
        ("basis=off", "turned off by basis=off"),
        ("unchanged=write", "turned off by unchanged=write"),
    ],
)
def test_an_option_that_leaves_files_without_seeds_is_the_reason(
    backing: Path, options: str, reason: str
) -> None:
    found = prepared(backing, options)
    assert (found.path, found.no_seeds) == (None, reason)


def test_a_folder_of_the_users_by_the_default_name_is_not_used(backing: Path) -> None:
    (backing / ".mirrorfs").mkdir()
    (backing / ".mirrorfs/theirs").write_text("x")
    found = prepared(backing)
    assert found.path is None
    assert found.no_seeds == "the name .mirrorfs is taken in the backing folder; pass -o state=DIR"
    assert os.listdir(backing / ".mirrorfs") == ["theirs"]


def test_a_folder_that_others_may_write_to_is_not_used_and_the_user_is_warned(
    backing: Path, tmp_path: Path
) -> None:
    (backing / ".mirrorfs").mkdir()
    (backing / ".mirrorfs").chmod(0o777)
    found = prepared(backing)
    assert found.path is None
    assert found.warnings == (f"files get no seeds: {found.no_seeds}",)
    assert f"{backing}/.mirrorfs cannot be used: others may write there" in found.no_seeds
    # It is not the one of this mount then, and no reason.
    elsewhere = prepared(backing, f"state={tmp_path}/state")
    assert (elsewhere.no_seeds, elsewhere.warnings) == ("", ())


def test_a_named_folder_is_made_and_locked(backing: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    fd = os.open(backing, os.O_RDONLY)
    found = state_folder.prepare(os.fsencode(backing), fd, parse(f"state={state}"))
    os.close(fd)
    assert found.path == os.fsencode(state)
    assert state.stat().st_mode & 0o777 == 0o700
    with pytest.raises(InUseError, match="is the state folder of another mount"):
        prepared(backing, f"state={state}")
    os.close(found.lock_fd)
    assert prepared(backing, f"state={state}").path == os.fsencode(state)


def test_the_default_may_be_named(backing: Path) -> None:
    found = prepared(backing, f"state={backing}/.mirrorfs")
    assert (found.path, found.lock_fd) == (os.fsencode(backing / ".mirrorfs"), -1)


def test_a_named_folder_that_cannot_be_used_is_refused(backing: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies in the backing folder"):
        prepared(backing, f"state={backing}/state")
    with pytest.raises(UsageError, match="none is no folder; make it first"):
        prepared(backing, f"state={tmp_path}/none/state")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="Not a directory"):
        prepared(backing, f"state={tmp_path}/file")


def test_a_folder_of_a_newer_version_is_refused(backing: Path) -> None:
    (backing / ".mirrorfs").mkdir(0o700)
    (backing / ".mirrorfs/format.json").write_text('{"format": 99}')
    with pytest.raises(StateError, match="newer mirrorfs"):
        prepared(backing)
