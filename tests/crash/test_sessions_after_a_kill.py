"""The daemon is killed while files are written: the catalog is whole, and calls nothing good that
was cut off.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from mirrorfs.catalog import database, sessions
from mirrorfs.catalog.session import Ending
from tests.commands import wait_for
from tests.disks import loop_mounted
from tests.remembered import is_under_way, noted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorfs.catalog.session import Session
    from tests.mounted import Mirror

KILLS = int(os.environ.get("MIRRORFS_TEST_KILLS", "12"))


class Writers:
    """Write file after file until the mount dies; `closed` are those of which every byte was
    acknowledged, and the close, too.
    """

    def __init__(self, mirror: Mirror, round_: int) -> None:
        self.mirror = mirror
        self.round = round_
        self.begun: set[bytes] = set()
        self.closed: set[bytes] = set()
        self.threads = [threading.Thread(target=self.write, args=(n,)) for n in range(3)]

    def write(self, number: int) -> None:
        chance = random.Random(self.round * 10 + number)
        try:
            for count in range(10_000):
                name = f"{self.round}-{number}-{count}".encode()
                fd = os.open(os.fsencode(self.mirror.path) + b"/" + name, os.O_WRONLY | os.O_CREAT)
                try:
                    for _ in range(chance.randrange(1, 40)):
                        os.write(fd, b"x" * chance.randrange(1, 70_000))
                        self.begun.add(name)
                finally:
                    os.close(fd)
                self.closed.add(name)
        except OSError:
            return


def read_all(mirror: Mirror) -> list[Session]:
    db = database.open_to_read(mirror.state_folder)
    if db is None:  # it is being made
        return []
    try:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return list(sessions.select(db, None, 0, False))
    finally:
        db.close()


def test_no_session_that_was_cut_off_is_called_good(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    chance, cut, whole = random.Random(5), set[bytes](), set[bytes]()
    for round_ in range(KILLS):
        writers = Writers(mirror, round_)
        for thread in writers.threads:
            thread.start()
        threading.Event().wait(chance.random() * 2)
        mirror.kill()
        for thread in writers.threads:
            thread.join()
        cut |= writers.begun - writers.closed
        whole |= writers.closed
        mirror.mount()
        for one in read_all(mirror):
            assert one.path not in cut or one.ended in {None, Ending.DAEMON_DIED}
        for path in ext4_folder.glob(f"{round_}-*"):
            path.unlink()
    mirror.umount()
    found = read_all(mirror)
    assert {one.path for one in found} <= cut | whole
    assert any(one.ended is Ending.DAEMON_DIED for one in found)
    assert not [one for one in found if one.ended is None]


def test_a_catalog_that_is_damaged_does_not_keep_the_mount_from_working(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0", noisy=True)
    mirror.write("x", 0, b"x" * 5000)
    mirror.umount()
    catalog = ext4_folder / ".mirrorfs/catalog.sqlite3"
    catalog.write_bytes(b"not what it was" * 1000)
    mirror.mount()
    mirror.write("y", 0, b"y" * 5000)
    wait_for(lambda: [one.path for one in read_all(mirror) if one.ended] == [b"y"])
    [line] = mirror.troubles()
    assert "the catalog was damaged; it is catalog.damaged-" in line


def test_sessions_for_which_there_was_no_space_are_noted_when_there_is(
    ext4_folder: Path, tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    with loop_mounted("ext4", tmp_path, 8) as disk:
        mirror = mount_mirror(ext4_folder, f"session_quiet=0,state={disk}/state", noisy=True)
        mirror.write("before", 0, b"x" * 5000)
        wait_for(lambda: "before 4.88 KiB: received" in mirror.log.read_text())
        filler = disk / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), b"x" * 4096)
        names = [f"meanwhile-{count}" for count in range(400)]
        for name in names:
            mirror.write(name, 0, b"x" * 5000)
        wait_for(mirror.troubles)
        filler.unlink()
        mirror.write("after", 0, b"x" * 5000)
        expected = {os.fsencode(name) for name in ("before", *names, "after")}
        wait_for(lambda: {one.path for one in read_all(mirror) if one.is_good} == expected)
        [line] = mirror.troubles()
        assert "full" in line
        mirror.umount()


def test_a_catalog_that_is_removed_while_it_is_in_use_is_begun_anew(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0", noisy=True)
    mirror.write("x", 0, b"x" * 5000)
    wait_for(lambda: "x 4.88 KiB: received" in mirror.log.read_text())
    for path in (ext4_folder / ".mirrorfs").glob("catalog.*"):
        path.unlink()
    mirror.write("y", 0, b"y" * 5000)
    wait_for(lambda: "y 4.88 KiB: received" in mirror.log.read_text())
    [line] = mirror.troubles()
    assert line.endswith("the catalog was removed or replaced; a new one is begun")
    assert [one.path for one in read_all(mirror)] == [b"y"]


@pytest.mark.parametrize("trouble", ["newer", "folder"])
def test_a_catalog_that_cannot_be_used_is_left_alone(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], trouble: str
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0", noisy=True)
    mirror.write("x", 0, b"x" * 5000)
    mirror.umount()
    catalog = ext4_folder / ".mirrorfs/catalog.sqlite3"
    if trouble == "newer":
        with sqlite3.connect(catalog) as db:
            db.execute(f"PRAGMA user_version={database.VERSION + 1}")
        db.close()
    else:
        catalog.unlink()
        catalog.mkdir()
    mirror.mount()
    for count in (1, 2):
        mirror.write(f"y{count}", 0, b"y" * 5000)
        wait_for(lambda: mirror.log.read_text().count(": received 4.88 KiB") > count)  # noqa: B023
    [line] = mirror.troubles()
    assert "sessions are not noted in the state folder" in line
    mirror.umount()
    assert catalog.is_dir() == (trouble == "folder")


def test_a_catalog_that_is_locked_at_the_mount_is_taken_in_later(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0", noisy=True)
    mirror.write("whole", 0, b"x" * 5000)
    wait_for(lambda: [one.is_good for one in noted(mirror, "whole")] == [True])
    fd = os.open(mirror.path / "cut", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"x" * 5000)
    wait_for(lambda: is_under_way(mirror))
    mirror.kill()
    with contextlib.suppress(OSError):
        os.close(fd)
    locker = sqlite3.connect(ext4_folder / ".mirrorfs/catalog.sqlite3", isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    mirror.mount()
    wait_for(lambda: any("is locked" in line for line in mirror.troubles()))
    locker.rollback()
    locker.close()
    mirror.write("after", 0, b"x" * 5000)
    wait_for(lambda: [one.is_good for one in noted(mirror, "after")] == [True])
    wait_for(lambda: [one.ended for one in noted(mirror, "cut")] == [Ending.DAEMON_DIED])
    assert mirror.stats()["life"]["received_bytes"] >= 10_000
