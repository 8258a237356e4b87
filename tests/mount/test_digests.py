"""Digests that a mount keeps: what leaves them as they are, and what ends them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import syscalls
from tests.digested import CHUNK, all_right, known_of, wait_for_seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

DATA = os.urandom(3 << 20)


@pytest.fixture
def quick(loop_fs: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(loop_fs, "session_quiet=0")


def chmod_often(path: Path) -> None:
    for mode in range(8):
        path.chmod(0o600 + mode)


def link_and_unlink(path: Path) -> None:
    other = path.with_name("other")
    os.link(path, other)
    other.unlink()


def rename_over_a_link(path: Path) -> None:
    other, new = path.with_name("other"), path.with_name("new")
    os.link(path, other)
    new.touch()
    new.rename(other)


def exchange(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    for _ in range(2):
        syscalls.rename(-100, os.fsencode(other), -100, os.fsencode(path), 2)


def move(path: Path) -> None:
    folder = path.with_name("folder")
    folder.mkdir()
    path.rename(folder / "file")
    folder.rename(path.with_name("moved"))
    (path.with_name("moved") / "file").rename(path)


WAYS: dict[str, Callable[[Path], object]] = {
    "chmod": lambda path: path.chmod(0o4700),
    "chown": lambda path: os.chown(path, 5, 6),
    "utime": lambda path: os.utime(path, ns=(5, 7)),
    "touch": os.utime,
    "setxattr": lambda path: os.setxattr(path, "user.note", b"x"),
    "chmod, often": chmod_often,
    "link": lambda path: os.link(path, path.with_name("other")),
    "link and unlink": link_and_unlink,
    "rename over a link": rename_over_a_link,
    "exchange": exchange,
    "move": move,
    "read": lambda path: path.read_bytes(),
    "open": lambda path: os.close(os.open(path, os.O_RDWR)),
}


def test_what_leaves_the_content_leaves_the_digests(quick: Mirror) -> None:
    names = [f"{way}/file" for way in WAYS]
    for name in names:
        (quick.path / name).parent.mkdir()
        quick.write(name, 0, DATA[: 15 * CHUNK])
        quick.write(name, 15 * CHUNK, DATA[:CHUNK])
    wait_for_seal(quick.backing, *names)
    for name, change in zip(names, WAYS.values(), strict=True):
        change(quick.path / name)
    found = wait_for_seal(quick.backing, *names)
    assert all(found[name].is_all for name in names)
    quick.umount()
    found = all_right(quick.backing)
    assert all(found[name].is_all for name in names)


def test_what_is_cloned_into_a_file_that_grows_is_not_zeros(quick: Mirror) -> None:
    (quick.path / "source").write_bytes(DATA)
    with (quick.path / "source").open("rb") as source, (quick.path / "copy").open("wb") as target:
        done = os.copy_file_range(source.fileno(), target.fileno(), len(DATA), 0, CHUNK)
    assert done == len(DATA)
    wait_for_seal(quick.backing, "source", "copy")
    quick.umount()
    found = all_right(quick.backing)
    assert found["copy"].zeros == 1


def test_all_is_sealed_when_the_mount_ends(
    loop_fs: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(loop_fs)
    for number in range(20):
        for place in range(0, len(DATA), 8 * CHUNK):
            mirror.write(str(number), place, DATA[place : place + 8 * CHUNK])
    mirror.umount()
    assert all(known.is_all for known in all_right(loop_fs).values())


def test_a_change_beside_the_mount_is_said_and_ends_them(quick: Mirror) -> None:
    (quick.path / "file").write_bytes(DATA)
    wait_for_seal(quick.backing, "file")
    with (quick.backing / "file").open("r+b") as file:
        file.write(b"beside")
    quick.write("file", 5 * CHUNK, DATA[:CHUNK])
    wait_for_seal(quick.backing, "file")
    quick.umount()
    assert 0 in all_right(quick.backing)["file"].lost
    assert "file: was changed beside the mount" in quick.log.read_text()


def test_a_mount_that_keeps_none_takes_them_away_from_what_it_changes(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    for name in ("changed", "left"):
        mirror.write(name, 0, DATA)
    mirror.umount()
    assert {name: one.believed for name, one in known_of(mirror.backing).items()} == {
        "changed": True,
        "left": True,
    }
    mirror.options = "digests=off"
    mirror.mount()
    mirror.write("changed", 5, b"new")
    mirror.write("new", 0, DATA)
    mirror.umount()
    found = known_of(mirror.backing)
    assert {name: one.why for name, one in found.items()} == {
        "changed": "none",
        "left": "",
        "new": "none",
    }


def test_a_file_of_any_size_takes_no_time(quick: Mirror) -> None:
    """Each of these, chunk by chunk, would take longer than the test may."""
    path = quick.path / "file"
    path.write_bytes(DATA)
    largest = 16 << 40 if "ext4" in str(quick.backing) else 1 << 62
    for size in (15 << 40, largest - CHUNK, 1 << 40):
        os.truncate(path, size)
        with path.open("r+b", buffering=0) as file:
            syscalls.punch_hole(file.fileno(), CHUNK, size)
            os.pwrite(file.fileno(), b"end", size - 3)
    os.truncate(path, 64 * CHUNK)
    quick.umount()
    assert not [one for one in known_of(quick.backing).values() if one.wrong]
