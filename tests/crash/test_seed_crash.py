"""A daemon that is killed while old blocks lie below: what is mounted next holds what had been
acknowledged, to the byte, and no old block shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import mark
from mirrorfs.errors import ExitCode
from tests.conftest import mirrorfs
from tests.model.test_seed_model import (
    BLOCK,
    MIB,
    File,
    Folder,
    is_list_empty,
    old_content,
    piece,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mirror

SIZE = MIB + 5000
LIST = ".mirrorfs/unsettled"
MARK = mark.NAME.decode()


def make(mirror: Mirror, name: str, size: int = SIZE) -> Folder:
    """A file with old content, open in the mount."""
    file = File(bytearray(old_content()[:size]))
    (mirror.backing / name).write_bytes(file.content)
    made = Folder(mirror, name, file, file)
    made.open(made.path)
    return made


def kill(mirror: Mirror, folders: list[Folder]) -> None:
    """The clients of a dead mount can only close."""
    mirror.kill()
    for folder in folders:
        for fd in folder.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        folder.fds = []


def remount_and_check(mirror: Mirror, folders: list[Folder]) -> None:
    mirror.mount()
    assert is_list_empty(mirror)
    for folder in folders:
        files = {folder.name: folder.named}
        if folder.temporary:
            files[folder.temporary] = folder.file
        for name, file in files.items():
            assert mirror.read(name) == file.content, name
            assert (mirror.backing / name).read_bytes() == file.content, name
            assert MARK not in os.listxattr(mirror.backing / name)


NEW = (50_000, "new", 77)
STEPS: dict[str, list[tuple[object, ...]]] = {
    "emptied, then written": [
        ("reopen", True),
        ("next", 0, 10 * BLOCK, "old", 1),
        ("next", 0, *NEW),
        ("next", 3 * BLOCK, 10_000, "old", 1),
        ("truncate_name", 2 * MIB),
        ("next", 0, *NEW),
        ("truncate", 20_000),
        ("next", 500_000, *NEW),
        ("sync",),
        ("next", 0, *NEW),
    ],
    "cut, then appended to": [
        ("truncate", 300_001),
        ("append", 10_000, "old", 1),
        ("append", *NEW),
        ("truncate", 250_000),
        ("truncate", 700_000),
        ("append", 5000, "zeros", 1),
    ],
    "emptied, given a size, then written": [
        ("reopen", True),
        ("truncate", 2 * MIB),
        ("write", 0, BLOCK, "zeros", 1),
        ("write", 600_000, 20_000, "old", 1),
        ("write", 100_000, *NEW),
        ("punch", 90_000, 40_000),
        ("punch", MIB, MIB),
    ],
    "equal data, all of it": [
        ("reopen", True),
        ("next", 0, SIZE // 2, "old", 1),
        ("next", 0, SIZE - SIZE // 2, "old", 1),
        ("reopen", False),
    ],
    "replaced by a temporary file": [
        ("make_temporary",),
        ("next", 0, 12 * BLOCK, "old", 1),
        ("next", 0, *NEW),
        ("next", 9999, 30_000, "old", 1),
        ("truncate", 400_000),
        ("close_all",),
        ("rename",),
    ],
    "renamed while it is open": [
        ("make_temporary",),
        ("next", 0, 12 * BLOCK, "old", 1),
        ("rename",),
        ("next", 0, *NEW),
        ("truncate", 0),
        ("next", 0, *NEW),
    ],
    "unlinked and made again": [
        ("make_again",),
        ("next", 0, 12 * BLOCK, "old", 1),
        ("next", 0, *NEW),
        ("next", 5000, 12_345, "mixed", 88),
        ("truncate", 2 * MIB),
        ("link",),
        ("close_all",),
    ],
    "open twice": [
        ("reopen", True),
        ("open_another", False),
        ("next", 0, *NEW),
        ("open_another", True),
        ("next", 0, 12 * BLOCK, "old", 1),
    ],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_killed_after_each_step(mirror: Mirror, steps: list[tuple[str, int]]) -> None:
    """One file for each: as many have been taken when the daemon is killed."""
    folders = []
    for count in range(1, len(steps) + 1):
        folders.append(folder := make(mirror, f"file-{count}"))
        for step in steps[:count]:
            folder.step(*step)
        if folder.fds:
            folder.check()
    kill(mirror, folders)
    remount_and_check(mirror, folders)


def random_step(chance: random.Random) -> tuple[object, ...]:
    size = chance.choice([BLOCK, 10 * BLOCK, 3000, chance.randrange(1, 200_000)])
    place = chance.choice([0, 64 * BLOCK, chance.randrange(2 * MIB)])
    data = (size, chance.choice(["zeros", "old", "old", "new", "mixed"]), chance.randrange(1, 256))
    gap = chance.choice([0, 0, 1, BLOCK, 100_000])
    return chance.choice(
        [
            ("write", place, *data),
            ("next", gap, *data),
            ("next", 0, *data),
            ("append", *data),
            ("truncate", place),
            ("truncate", 0),
            ("truncate_name", place),
            ("punch", place, size),
            ("reopen", True),
            ("reopen", False),
            ("open_another", False),
            ("open_another", True),
            ("make_again",),
            ("make_temporary",),
            ("rename",),
            ("sync",),
            ("link",),
        ]
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_random(mirror: Mirror) -> None:
    """72 files, four at each kill, of which some live on to the next."""
    chance = random.Random(11)
    folders = [make(mirror, f"file-{number}", SIZE) for number in range(4)]
    for round_ in range(18):
        for folder in folders:
            if not folder.fds:
                folder.open(folder.path)
            for _ in range(chance.randrange(1, 10)):
                folder.step(*random_step(chance))
            if folder.fds:
                folder.check()
        kill(mirror, folders)
        remount_and_check(mirror, folders)
        folders[round_ % 4] = make(mirror, f"new-{round_}", chance.randrange(MIB, 2 * MIB))


class Writer(threading.Thread):
    """Writes on and on: `done` was acknowledged, `on_the_way` is what else may be there."""

    def __init__(self, fd: int, chance: random.Random) -> None:
        super().__init__()
        self.fd, self.chance = fd, chance
        self.done, self.on_the_way = bytearray(), b""

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while not self.on_the_way:
                place = len(self.done) + self.chance.choice([0, 0, 0, 5000])
                data = piece(self.chance.choice(["old", "new", "mixed"]), place, 30_000, 99)
                gap = place - len(self.done)
                self.on_the_way = bytes(gap) + data
                taken = gap + os.pwrite(self.fd, data, place)
                self.done.extend(self.on_the_way[:taken])
                self.on_the_way = self.on_the_way[taken:]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_write(mirror: Mirror) -> None:
    """Of the write that was not acknowledged, a part may be there, and nothing behind it."""
    chance = random.Random(12)
    for number in range(5):
        made = make(mirror, f"file-{number}", 3 * MIB)
        made.reopen(empty=True)
        writer = Writer(made.fd, chance)
        writer.start()
        time.sleep(chance.random() * 0.1)
        mirror.kill()
        writer.join()
        with contextlib.suppress(OSError):
            os.close(made.fds.pop())
        mirror.mount()
        found, done = mirror.read(made.name), len(writer.done)
        assert found[:done] == writer.done
        assert writer.on_the_way.startswith(found[done:])
        assert is_list_empty(mirror)
        assert MARK not in os.listxattr(made.backing)


def cut_power(path: Path, durable: int | None = None) -> mark.Mark:
    """Let the mark of a file say that the machine was restarted since, and perhaps that so many
    bytes were on the disk by then.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        found = mark.read(fd)
        assert found is not None
        kept = found.durable if durable is None else durable
        made = mark.Mark(b"restart!", kept, found.frontier, found.size)
        mark.write(fd, made)
        return made
    finally:
        os.close(fd)


@pytest.mark.parametrize("durable", [None, 2 * BLOCK, 3 * BLOCK + 17])
@pytest.mark.parametrize("grown", [False, True])
def test_after_a_power_cut_only_what_is_durable_is_kept(
    mirror: Mirror, durable: int | None, grown: bool
) -> None:
    made = make(mirror, "file")
    made.reopen(empty=True)
    if grown:
        made.truncate(2 * MIB)
    made.write(0, 8 * BLOCK, "old", 1)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    found = cut_power(made.backing, durable)
    assert found.frontier == 8 * BLOCK + 50_000
    made.file.content[found.durable :] = bytes(2 * MIB - found.durable if grown else 0)
    remount_and_check(mirror, [made])


def test_what_was_there_before_a_cut_is_durable(mirror: Mirror) -> None:
    made = make(mirror, "file")
    made.truncate(100_001)
    made.write(100_001, 50_000, "new", 7)
    kill(mirror, [made])
    cut_power(made.backing)
    del made.file.content[100_001:]
    remount_and_check(mirror, [made])


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_what_was_synced_is_durable_whoever_has_synced_it(mirror: Mirror, flags: int) -> None:
    """sync(1) opens a file for reading only."""
    made = make(mirror, "file")
    made.reopen(empty=True)
    made.next(0, 50_000, "new", 7)
    fd = os.open(made.path, flags)
    os.fsync(fd)
    os.close(fd)
    made.check_backing()
    kill(mirror, [made])
    remount_and_check(mirror, [made])


def test_a_temporary_file_after_a_power_cut_shows_nothing_of_the_old_one(mirror: Mirror) -> None:
    made = make(mirror, "file")
    made.make_temporary()
    made.next(0, 8 * BLOCK, "old", 1)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    if MARK in os.listxattr(made.backing):  # not where files cannot share blocks
        cut_power(made.backing)
        made.file.content.clear()
    remount_and_check(mirror, [made])


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
    said = "1 files whose end is not settled, file first; mount it once without 'ro'"
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
