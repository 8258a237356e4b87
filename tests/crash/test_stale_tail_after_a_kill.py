"""A daemon that is killed while a file has a stale tail: what is mounted next holds what had been
acknowledged, to the byte, and no old block shows.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing import recovery_attribute
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

    from tests.mounted import Mirror

SIZE = MIB + 5000
LIST = ".mirrorfs/unsettled"
ATTRIBUTE = recovery_attribute.NAME.decode()


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
            assert ATTRIBUTE not in os.listxattr(mirror.backing / name)


NEW = (50_000, "new", 77)
STEPS: dict[str, list[tuple[Any, ...]]] = {
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
def test_kill_after_each_step_leaves_what_was_acknowledged(
    mirror: Mirror, steps: list[tuple[Any, ...]]
) -> None:
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


def random_step(chance: random.Random) -> tuple[Any, ...]:
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
def test_kill_at_random_leaves_what_was_acknowledged(mirror: Mirror) -> None:
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
def test_kill_in_the_middle_of_a_write_leaves_a_part_of_it_at_most(mirror: Mirror) -> None:
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
        assert ATTRIBUTE not in os.listxattr(made.backing)


def test_copied_folder_finalises_a_file_by_its_last_name(
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
    assert ATTRIBUTE in os.listxattr(mirror.backing / "hosts/image")
    shutil.copytree(mirror.backing, copy)
    os.close(writing)
    assert ATTRIBUTE in os.listxattr(copy / "hosts/image")
    found = mount_mirror(copy)
    assert ATTRIBUTE not in os.listxattr(copy / "hosts/image")
    assert new.startswith(found.read("hosts/image"))
