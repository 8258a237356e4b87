"""What becomes of a file's history when its names change while a session of it is under way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.catalog import database, sessions
from tests.remembered import noted, wait_for_sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

DATA = os.urandom(1 << 20)


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder, "session_quiet=0")


def known(mirror: Mirror) -> dict[bytes, sessions.File]:
    db = database.open_to_read(mirror.state_folder)
    assert db is not None
    try:
        return {one.path: one for one in sessions.files(db)}
    finally:
        db.close()


def test_a_file_that_is_renamed_while_it_is_written_takes_its_history_along(
    mirror: Mirror,
) -> None:
    mirror.write("old.img", 0, DATA)
    wait_for_sessions(mirror, "old.img")
    with (mirror.path / "old.img").open("r+b", buffering=0) as file:
        file.write(DATA[::-1])
        (mirror.path / "old.img").rename(mirror.path / "new.img")
    assert len(wait_for_sessions(mirror, "new.img", 2)) == 2
    assert list(known(mirror)) == [b"new.img"]


def test_a_file_that_is_removed_while_it_is_written_is_known_to_be_gone(mirror: Mirror) -> None:
    with (mirror.path / "short-lived").open("wb", buffering=0) as file:
        file.write(DATA)
        (mirror.path / "short-lived").unlink()
    assert wait_for_sessions(mirror, "short-lived")[0].ended == "abandoned"
    assert known(mirror) == {}


def test_a_temporary_file_that_is_removed_leaves_what_it_was_meant_for_incomplete(
    mirror: Mirror,
) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    with (mirror.path / ".vm.img.AbC123").open("wb", buffering=0) as file:
        file.write(DATA)
        (mirror.path / ".vm.img.AbC123").unlink()
    assert wait_for_sessions(mirror, "vm.img", 2)[0].written_as == b".vm.img.AbC123"
    (file_known,) = known(mirror).values()
    assert file_known.last.is_incomplete
    assert file_known.good is not None
    assert file_known.good.number == noted(mirror, "vm.img")[1].number
