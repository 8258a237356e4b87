"""The progress table, which outlives a daemon."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import progress_table
from mirrorfs.backing.progress_table import Noted, ProgressTable
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Iterator

SHM = Path("/dev/shm")
OWNER = "an owner"


@pytest.fixture
def folder() -> Iterator[bytes]:
    path = SHM / f"mirrorfs-test-{os.getpid()}"
    path.mkdir()
    yield os.fsencode(path)
    run("rm", "-r", path)


def test_what_a_table_holds_is_found_by_table_place_and_file(folder: bytes) -> None:
    made = ProgressTable(OWNER, folder)
    places = [made.take(entry, 5, 6) for entry in (7, 8)]
    below = os.stat(SHM)
    left = {"mtime_ns": below.st_mtime_ns, "stored_size": below.st_size, "dev": 5, "ino": 6}
    made.set(places[0], 100, 200, below)
    made.set(places[1], 2**63, 1, below)
    assert progress_table.read(made.id, places[0], 7, folder) == Noted(100, 200, **left)
    assert progress_table.read(made.id, places[1], 8, folder) == Noted(2**63, 2**63, **left)
    assert progress_table.read(made.id, places[0], 8, folder) is None
    made.give_back(places[0])
    assert progress_table.read(made.id, places[0], 7, folder) is None
    assert progress_table.read(bytes(3) + b"x", places[0], 7, folder) is None
    assert progress_table.read(made.id, 1 << 20, 7, folder) is None


def test_a_change_under_way_is_noted_until_it_ends(folder: bytes) -> None:
    made = ProgressTable(OWNER, folder)
    place = made.take(7, 5, 6)
    made.set(place, 100, 200, os.stat(SHM))
    before = time.time_ns()
    made.begin(place)
    found = progress_table.read(made.id, place, 7, folder)
    assert found is not None
    assert found.valid_length == 100
    assert before <= found.busy_ns <= time.time_ns()
    made.set(place, 150, 200, os.stat(SHM))
    found = progress_table.read(made.id, place, 7, folder)
    assert found is not None
    assert found.busy_ns == 0


def test_a_change_that_is_held_up_before_it_moves_the_mtime_is_noted(folder: bytes) -> None:
    made, fd = ProgressTable(OWNER, folder), os.open(folder, os.O_RDONLY)
    place = made.take(7, 5, 6)
    made.set(place, 100, 200, os.fstat(fd))

    def is_stalled() -> bool:
        made.note_stalled(place, fd)
        found = progress_table.read(made.id, place, 7, folder)
        assert found is not None
        return 0 < found.busy_ns == found.stalled_ns

    assert not is_stalled()
    made.begin(place)
    assert not is_stalled()
    time.sleep(progress_table.PROMPT_NS / 1e9 + 0.01)
    assert is_stalled()
    made.set(place, 100, 200, os.fstat(fd))
    made.begin(place)
    time.sleep(progress_table.PROMPT_NS / 1e9 + 0.01)
    os.utime(fd)
    assert not is_stalled()
    os.close(fd)


def test_a_table_is_in_use_as_long_as_its_daemon_lives(folder: bytes) -> None:
    code = f"""
import time
from mirrorfs.backing.progress_table import ProgressTable
made = ProgressTable({OWNER!r}, {folder!r})
made.take(7, 5, 6)
print(made.id.hex(), flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    table = bytes.fromhex(owner.stdout.readline())
    assert progress_table.is_in_use(table, folder)
    assert not progress_table.is_in_use(bytes(4), folder)
    owner.kill()
    owner.communicate()
    assert not progress_table.is_in_use(table, folder)


def test_the_table_of_an_older_version_is_read(folder: bytes) -> None:
    table = bytes(range(8))
    path = os.path.join(folder, b"mirrorfs-" + OWNER.encode() + b"-" + table.hex().encode())
    with open(path, "wb") as file:
        file.write(struct.pack("=QQQQQQ", 6, 1, 2, 7, 100, 200))
    assert progress_table.read(table, 1, 7, folder) == Noted(100, 200)
    assert progress_table.read(table, 0, 7, folder) is None


def test_a_table_outlives_its_process_that_is_killed(folder: bytes) -> None:
    code = f"""
import os, signal
from mirrorfs.backing.progress_table import ProgressTable
made = ProgressTable({OWNER!r}, {folder!r})
place = made.take(3, 5, 6)
made.set(place, 12345, 23456, os.stat("/"))
print(made.id.hex(), place, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    printed = run(sys.executable, "-c", code, check=False).stdout
    table, place = printed.split()
    found = progress_table.read(bytes.fromhex(table), int(place), 3, folder)
    assert found is not None
    assert (found.valid_length, found.size) == (12345, 23456)
    progress_table.remove_all(OWNER, folder)
    assert not os.listdir(folder)


def test_removing_tables_leaves_those_of_another_state_folder(
    folder: bytes, tmp_path: Path
) -> None:
    owners = [progress_table.owner_of(os.fsencode(tmp_path / name)) for name in ("one", "two")]
    for owner in owners:
        ProgressTable(owner, folder).take(1, 5, 6)
    progress_table.remove_all(owners[0], folder)
    (left,) = os.listdir(folder)
    assert owners[1].encode() in left


def test_removing_tables_may_keep_one(folder: bytes) -> None:
    old, new = ProgressTable(OWNER, folder), ProgressTable(OWNER, folder)
    old.take(1, 5, 6), new.take(1, 5, 6)
    progress_table.remove_all(OWNER, folder, keep=new.id)
    (left,) = os.listdir(folder)
    assert left.decode().endswith(new.id.hex())


def test_removing_tables_passes_over_what_cannot_be_removed(folder: bytes) -> None:
    for number in range(8):
        ProgressTable(OWNER, folder).take(number, 5, 6)
    there = os.listdir(folder)
    for name in there[::2]:
        os.unlink(os.path.join(folder, name))
        os.mkdir(os.path.join(folder, name))
    progress_table.remove_all(OWNER, folder)
    assert sorted(os.listdir(folder)) == sorted(there[::2])


def test_a_table_is_removed_at_close_when_no_place_is_in_use(folder: bytes) -> None:
    made = ProgressTable(OWNER, folder)
    assert not os.listdir(folder)
    place = made.take(1, 5, 6)
    made.close()
    (name,) = os.listdir(folder)
    assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600
    made.give_back(place)
    made.close()
    assert not os.listdir(folder)


def test_a_table_has_1024_places(folder: bytes) -> None:
    made = ProgressTable(OWNER, folder)
    places = [made.take(entry, 5, 6) for entry in range(1, 1025)]
    assert sorted(places) == list(range(1024))
    assert made.take(9999, 5, 6) == progress_table.NO_PLACE
    made.give_back(500)
    assert made.take(9999, 5, 6) == 500


@pytest.mark.parametrize("where", ["a disk", "nowhere"])
def test_a_table_that_cannot_be_made_has_no_places(tmp_path: Path, where: str) -> None:
    made = ProgressTable(
        OWNER, os.fsencode(tmp_path if where == "a disk" else tmp_path / "missing")
    )
    assert made.take(1, 5, 6) == progress_table.NO_PLACE
    assert made.id == progress_table.NONE
    assert not list(tmp_path.iterdir())


def test_a_table_of_another_user_is_not_read(folder: bytes) -> None:
    made = ProgressTable(OWNER, folder)
    place = made.take(5, 5, 6)
    os.chown(os.path.join(folder, os.listdir(folder)[0]), 1234, -1)
    assert progress_table.read(made.id, place, 5, folder) is None
