"""Recently unlinked files: how many are held, for how long, and which new file gets them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.statx import statx
from mirrorfs.fs import recently_unlinked
from mirrorfs.fs.recently_unlinked import RecentlyUnlinked
from mirrorfs.mirror.seed_search import OldFile
from tests.commands import wait_for
from tests.fs.tables import Clock, in_main_loop, look_up, opened_table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().set_in(monkeypatch, "fs.recently_unlinked")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    return tmp_path


def old_file(folder: Path) -> OldFile:
    """A file without a name."""
    fd = os.open(folder / "old", os.O_RDONLY | os.O_CREAT)
    os.unlink(folder / "old")
    return OldFile(fd, statx(fd))


def is_open(old: OldFile) -> bool:
    try:
        found = statx(old.fd)
    except OSError:
        return False
    return found.key == old.status.key


def wait_until_closed(*files: OldFile) -> None:
    """A thread of their device closes them."""
    wait_for(lambda: not any(map(is_open, files)))


@in_main_loop
async def test_an_unlinked_file_is_given_once_to_the_next_of_its_name(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        unlinked, old, sub = RecentlyUnlinked(), old_file(folder), look_up(inodes, "sub")
        unlinked.hold(inodes.root, b"name", old)
        assert unlinked.take(inodes.root, b"other") is None
        assert unlinked.take(sub, b"name") is None
        assert unlinked.take(inodes.root, b"name") is old
        assert unlinked.take(inodes.root, b"name") is None
        unlinked.close()
        assert is_open(old)
        os.close(old.fd)


@in_main_loop
async def test_a_folder_that_got_the_number_of_another_gets_none_of_its_files(
    folder: Path,
) -> None:
    async with opened_table(folder) as inodes:
        unlinked, old, sub = RecentlyUnlinked(), old_file(folder), look_up(inodes, "sub")
        unlinked.hold(sub, b"name", old)
        inodes.root.node_id = sub.node_id
        assert unlinked.take(inodes.root, b"name") is None
        unlinked.close()


@in_main_loop
async def test_an_unlinked_file_is_held_for_three_seconds(folder: Path, clock: Clock) -> None:
    async with opened_table(folder) as inodes:
        unlinked, first, second = RecentlyUnlinked(), old_file(folder), old_file(folder)
        unlinked.hold(inodes.root, b"first", first)
        clock.now += 1
        unlinked.hold(inodes.root, b"second", second)
        clock.now += 1.9
        unlinked.sweep()
        assert is_open(first)
        clock.now += 0.1
        unlinked.sweep()
        wait_until_closed(first)
        assert unlinked.take(inodes.root, b"second") is second
        os.close(second.fd)


@in_main_loop
async def test_only_the_latest_files_are_held(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        unlinked = RecentlyUnlinked()
        files = [old_file(folder) for _ in range(recently_unlinked._MAX_HELD + 2)]
        for number, old in enumerate(files):
            unlinked.hold(inodes.root, b"%d" % number, old)
        wait_until_closed(*files[:2])
        assert all(map(is_open, files[2:]))
        unlinked.close()
        wait_until_closed(*files)


@in_main_loop
async def test_the_later_of_two_files_with_one_name_is_held(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        unlinked, first, second = RecentlyUnlinked(), old_file(folder), old_file(folder)
        unlinked.hold(inodes.root, b"name", first)
        unlinked.hold(inodes.root, b"name", second)
        wait_until_closed(first)
        assert unlinked.take(inodes.root, b"name") is second
        os.close(second.fd)


@in_main_loop
async def test_giving_up_all_frees_the_blocks_of_one_device(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        unlinked, sub = RecentlyUnlinked(), look_up(inodes, "sub")
        sub.device = inodes.devices.at(12345)
        here, there = old_file(folder), old_file(folder)
        unlinked.hold(inodes.root, b"name", here)
        unlinked.hold(sub, b"name", there)
        assert await unlinked.give_up_all(inodes.root.device)
        assert (is_open(here), is_open(there)) == (False, True)
        assert not await unlinked.give_up_all(inodes.root.device)
        assert await unlinked.give_up_all(sub.device)
        sub.device = inodes.root.device


@in_main_loop
async def test_a_held_file_keeps_its_device_known(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        unlinked, device, files = RecentlyUnlinked(), inodes.root.device, []
        before = device.inodes
        for name in (b"a", b"b", b"c", b"c"):
            files.append(old_file(folder))
            unlinked.hold(inodes.root, name, files[-1])
        assert device.inodes == before + 3
        unlinked.take(inodes.root, b"a")
        assert device.inodes == before + 2
        await unlinked.give_up_all(device)
        assert device.inodes == before
        os.close(files[0].fd)


@in_main_loop
async def test_a_device_that_was_cut_off_is_given_up_all_the_same(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        unlinked, device, old = RecentlyUnlinked(), inodes.root.device, old_file(folder)
        before = device.inodes
        unlinked.hold(inodes.root, b"name", old)
        device.threads.cut_off()
        with pytest.raises(OSError) as caught:
            await unlinked.give_up_all(device)
        assert caught.value.errno == errno.EIO
        assert device.inodes == before
        assert unlinked.take(inodes.root, b"name") is None
        os.close(old.fd)
