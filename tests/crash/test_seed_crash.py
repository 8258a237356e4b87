"""A daemon that is killed while old blocks lie below: what is mounted next holds what had been
acknowledged, to the byte, and no old block shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import ledger, mark
from mirrorfs.backing.statx import statx
from tests.conftest import MKFS, image_mounted, loop_mounted, run
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
    "a range left out, and filled": [
        ("reopen", True),
        ("write", 600_000, 512, "old", 1),
        ("write", 0, 200_000, "old", 1),
        ("write", 250_000, 10_000, "old", 1),
        ("write", 260_000, *NEW),
        ("write", 900_000, 512, "old", 1),
        ("write", 600_512, 299_488, "old", 1),
        ("write", 1_000_000, *NEW),
        ("write", 950_000, 100_000, "mixed", 88),
        ("truncate", 980_000),
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


def owner(mirror: Mirror) -> str:
    return ledger.owner_of(os.fsencode(mirror.backing / ".mirrorfs"))


def marked(path: Path) -> mark.Mark:
    with path.open("rb") as file:
        found = mark.read(file.fileno())
    assert found is not None
    return found


def cut_power(path: Path, durable: int | None = None) -> mark.Mark:
    """Let the mark of a file say that the machine was restarted since, and perhaps that so many
    bytes were on the disk by then.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        found = mark.read(fd)
        assert found is not None
        kept = found.durable if durable is None else durable
        made = replace(found, instance=b"rest", durable=kept)
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


def test_where_the_ledger_is_lost_only_what_is_durable_is_kept(mirror: Mirror) -> None:
    made = make(mirror, "file")
    made.reopen(empty=True)
    made.write(0, 8 * BLOCK, "old", 1)
    kill(mirror, [made])
    found = marked(made.backing)
    ledger.remove_all(owner(mirror))
    del made.file.content[found.durable :]
    remount_and_check(mirror, [made])


def old_instance(fd: int) -> bytes:
    """What older versions write into a mark to name this boot, and this mount of the disk."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    status = statx(fd)
    text = f"{boot} {status.dev} {status.mount_id}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def test_a_mark_without_a_ledger_says_it_itself(mirror: Mirror) -> None:
    """As an older version leaves it, or a machine without a file system in memory."""
    made = make(mirror, "file")
    made.reopen(empty=True)
    made.next(0, 50_000, "new", 7)
    kill(mirror, [made])
    with made.backing.open("r+b") as file:
        ledger.remove_all(owner(mirror))
        first = struct.pack("<B8sQQQ", 1, old_instance(file.fileno()), 0, 50_000, 50_000)
        os.setxattr(file.fileno(), mark.NAME, first)
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


def test_a_copy_of_the_folder_has_a_file_by_the_name_that_it_had_last(
    mirror: Mirror, mount_mirror: Callable[..., Mirror]
) -> None:
    (mirror.path / "vms").mkdir()
    (mirror.path / "vms/image").write_bytes(os.urandom(3 * MIB))
    writing = os.open(mirror.path / "vms/image", os.O_WRONLY)
    (mirror.path / "vms").rename(mirror.path / "hosts")
    os.ftruncate(writing, 0)
    new = os.urandom(50_000)
    os.write(writing, new)
    copy = mirror.backing.with_name(mirror.backing.name + "-copy")
    assert MARK in os.listxattr(mirror.backing / "hosts/image")
    shutil.copytree(mirror.backing, copy)
    os.close(writing)
    assert MARK in os.listxattr(copy / "hosts/image")
    found = mount_mirror(copy)
    assert MARK not in os.listxattr(copy / "hosts/image")
    assert new.startswith(found.read("hosts/image"))


@pytest.mark.parametrize("kind", MKFS)
def test_a_power_cut_after_a_file_was_settled_and_another_begun(
    tmp_path: Path, mount_mirror: Callable[..., Mirror], kind: str
) -> None:
    """The list, synced for the second file, must not forget the first before it is cut."""
    image = tmp_path / "after the cut"
    with loop_mounted(kind, tmp_path, 400) as disk:
        backing = disk / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing)
        first, second = make(mirror, "first", 3 * MIB), make(mirror, "second", 3 * MIB)
        run("sync", "-f", backing)
        for made in (first, second):
            made.reopen(empty=True)
            made.next(0, MIB, "new", 7)
            if made is first:
                made.close_all()
        run("cp", "--sparse=always", tmp_path / f"{kind}.img", image)
        second.close_all()
        mirror.umount()
    with image_mounted(image, tmp_path / "found") as found:
        mirror = mount_mirror(found / "backing")
        assert mirror.read("first") in {b"", bytes(first.file.content)}
        assert MARK not in os.listxattr(mirror.backing / "first")
        mirror.umount()
