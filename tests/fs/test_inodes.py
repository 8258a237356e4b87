"""The table of inodes: which descriptors it keeps, and how it finds given up ones again."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.statx import identify, statx
from mirrorfs.fs.pinned_inodes import Pinned
from tests.fs.tables import Clock, in_main_loop, look_up, opened_table

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def fill(folder: Path) -> Path:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/deep").write_text("deep")
    for name in "xyz":
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for an ordinary user's daemon, which may not open file handles."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock().set_in(monkeypatch, "fs.inodes")


def content(inode: Inode) -> str:
    with open(f"/proc/self/fd/{inode.fd}") as file:
        return file.read()


async def fails_with(code: int, call: Coroutine[object, object, object]) -> bool:
    with pytest.raises(OSError) as caught:
        await call
    return caught.value.errno == code


@in_main_loop
async def test_the_least_recently_used_descriptors_are_given_up(folder: Path) -> None:
    async with opened_table(folder, limit=2) as inodes:
        x, y, z = (look_up(inodes, name) for name in "xyz")
        assert [inode.fd >= 0 for inode in (x, y, z)] == [False, True, True]
        await inodes.pin(y)
        inodes.unpin(y)
        look_up(inodes, "a")
        assert [inode.fd >= 0 for inode in (x, y, z)] == [False, True, False]
        assert inodes.descriptors == 2


@in_main_loop
async def test_a_pinned_inode_keeps_its_descriptor_whatever_the_limit(folder: Path) -> None:
    async with opened_table(folder, limit=1) as inodes:
        x = look_up(inodes, "x")
        fd = await inodes.pin(x)
        await inodes.pin(x)
        for name in "yza":
            look_up(inodes, name)
        inodes.unpin(x)
        assert x.fd == fd
        assert content(x) == "x"
        inodes.unpin(x)
        assert inodes.descriptors == 1
        look_up(inodes, "y")
        assert x.fd == -1


@pytest.mark.usefixtures("by_name")
@in_main_loop
async def test_a_given_up_descriptor_is_opened_again_by_name_through_its_folders(
    folder: Path,
) -> None:
    async with opened_table(folder, limit=0) as inodes:
        async with Pinned(inodes, look_up_id(inodes, "a")) as (a,):
            b = look_up(inodes, "b", a)
            async with Pinned(inodes, b.node_id):
                deep = look_up(inodes, "deep", b)
        assert (a.fd, b.fd, deep.fd) == (-1, -1, -1)
        async with Pinned(inodes, deep.node_id):
            assert content(deep) == "deep"
        assert (a.fd, b.fd, deep.fd) == (-1, -1, -1)
        assert (a.pins, b.pins, deep.pins) == (0, 0, 0)


def look_up_id(inodes: InodeTable, name: str) -> int:
    return look_up(inodes, name).node_id


def replace(folder: Path) -> None:
    (folder / "new").write_text("another")
    (folder / "new").rename(folder / "x")


def remove(folder: Path) -> None:
    (folder / "x").unlink()


def move(folder: Path) -> None:
    (folder / "x").rename(folder / "moved")


@pytest.mark.usefixtures("by_name")
@pytest.mark.parametrize("change", [replace, remove, move])
@in_main_loop
async def test_a_name_that_leads_to_no_or_another_inode_is_stale(
    folder: Path, change: Callable[[Path], None]
) -> None:
    async with opened_table(folder, limit=0) as inodes:
        x = look_up(inodes, "x")
        change(folder)
        assert await fails_with(errno.ESTALE, inodes.pin(x))
        assert (x.fd, x.pins) == (-1, 0)
        assert inodes.get(x.node_id) is x


@in_main_loop
async def test_a_given_up_descriptor_is_opened_again_by_handle_wherever_its_name_is(
    ext4_folder: Path,
) -> None:
    fill(ext4_folder)
    async with opened_table(ext4_folder, limit=0) as inodes:
        x = look_up(inodes, "x")
        assert (x.fd, x.handle is None) == (-1, False)
        move(ext4_folder)
        async with Pinned(inodes, x.node_id):
            assert content(x) == "x"


@in_main_loop
async def test_a_handle_of_a_removed_inode_is_stale(ext4_folder: Path) -> None:
    fill(ext4_folder)
    async with opened_table(ext4_folder, limit=0) as inodes:
        x = look_up(inodes, "x")
        replace(ext4_folder)
        assert await fails_with(errno.ESTALE, inodes.pin(x))
        assert x.pins == 0


@in_main_loop
async def test_an_inode_is_forgotten_with_its_last_lookup(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        x = look_up(inodes, "x")
        assert look_up(inodes, "x") is x
        assert (x.lookups, len(inodes), inodes.descriptors) == (2, 2, 1)
        assert inodes.forget(x.node_id, 1) is None
        assert inodes.get(x.node_id) is x
        assert inodes.forget(x.node_id, 1) is x
        assert (x.fd, len(inodes), inodes.descriptors) == (-1, 1, 0)
        assert inodes.forget(x.node_id, 1) is None
        with pytest.raises(OSError) as caught:
            inodes.get(x.node_id)
        assert caught.value.errno == errno.ESTALE


@in_main_loop
async def test_the_root_is_never_forgotten(folder: Path) -> None:
    async with opened_table(folder, limit=0) as inodes:
        assert inodes.forget(inodes.root.node_id, 1000) is None
        await inodes.pin(inodes.root)
        inodes.unpin(inodes.root)
        assert inodes.get(inodes.root.node_id) is inodes.root
        assert inodes.root.fd >= 0


@in_main_loop
async def test_an_inode_in_use_is_forgotten_when_its_last_pin_ends(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        x = look_up(inodes, "x")
        async with Pinned(inodes, x.node_id):
            assert inodes.forget(x.node_id, 1) is None
            assert content(x) == "x"
        assert (x.fd, len(inodes)) == (-1, 1)


@in_main_loop
async def test_a_nameless_inode_keeps_its_only_descriptor(folder: Path) -> None:
    async with opened_table(folder, limit=0) as inodes:
        x = look_up(inodes, "x")
        async with Pinned(inodes, x.node_id):
            (folder / "x").unlink()
            inodes.lose_name(x)
        inodes.sweep()
        assert content(x) == "x"
        assert inodes.descriptors == 0
        assert inodes.forget(x.node_id, 1) is x
        assert x.fd == -1


async def lose_way_to(inodes: InodeTable) -> tuple[Inode, Inode]:
    """A folder without a name or a descriptor, and what was in it."""
    async with Pinned(inodes, look_up_id(inodes, "a")) as (a,):
        b = look_up(inodes, "b", a)
    a.handle = b.handle = None
    a.nameless = True
    return a, b


@in_main_loop
async def test_a_folder_without_a_name_leads_nowhere(folder: Path) -> None:
    async with opened_table(folder, limit=0) as inodes:
        _, b = await lose_way_to(inodes)
        assert await fails_with(errno.ESTALE, inodes.pin(b))
        assert b.pins == 0


@in_main_loop
async def test_a_folder_on_a_way_that_leads_nowhere_is_not_left_pinned(folder: Path) -> None:
    async with opened_table(folder, limit=0) as inodes:
        a, b = await lose_way_to(inodes)
        assert await fails_with(errno.ESTALE, inodes.pin(b))
        assert a.pins == 0


def look_up_elsewhere(inodes: InodeTable, name: str) -> Inode:
    """As if another mount led to it."""
    fd = os.open(name, os.O_PATH, dir_fd=inodes.root.fd)
    status = identify(fd)
    elsewhere = status._replace(mount_id=status.mount_id + 1)
    return inodes.adopt(elsewhere, inodes.root, os.fsencode(name), fd)


@in_main_loop
async def test_descriptors_in_other_mounts_are_given_up_soon_after_their_last_use(
    folder: Path, clock: Clock
) -> None:
    async with opened_table(folder) as inodes:
        x, y = look_up_elsewhere(inodes, "x"), look_up_elsewhere(inodes, "y")
        here = look_up(inodes, "z")
        clock.now += 1.5
        await inodes.pin(y)
        inodes.unpin(y)
        clock.now += 1.0
        inodes.sweep()
        assert [inode.fd >= 0 for inode in (x, y, here)] == [False, True, True]
        clock.now += 1.1
        inodes.sweep()
        assert [inode.fd >= 0 for inode in (x, y, here)] == [False, False, True]


@in_main_loop
async def test_an_inode_in_another_mount_is_opened_again_by_name_alone(
    folder: Path, clock: Clock
) -> None:
    async with opened_table(folder) as inodes:
        x = look_up_elsewhere(inodes, "x")
        clock.now += 10
        inodes.sweep()
        assert (x.fd, x.handle) == (-1, None)
        async with Pinned(inodes, x.node_id):
            assert content(x) == "x"
            clock.now += 10
            inodes.sweep()
            assert x.fd >= 0
        move(folder)
        clock.now += 10
        inodes.sweep()
        assert await fails_with(errno.ESTALE, inodes.pin(x))


@in_main_loop
async def test_descriptors_in_other_mounts_are_bounded_apart(folder: Path, clock: Clock) -> None:
    async with opened_table(folder, limit=1) as inodes:
        here = look_up(inodes, "z")
        x, y = look_up_elsewhere(inodes, "x"), look_up_elsewhere(inodes, "y")
        assert [inode.fd >= 0 for inode in (here, x, y)] == [True, False, True]
        assert inodes.descriptors == 2


@in_main_loop
async def test_an_inode_that_is_met_in_another_mount_gives_up_its_old_descriptor(
    folder: Path,
) -> None:
    async with opened_table(folder) as inodes:
        x, y = look_up(inodes, "x"), look_up(inodes, "y")
        async with Pinned(inodes, y.node_id):
            before = x.fd, y.fd
            look_up_elsewhere(inodes, "x")
            look_up_elsewhere(inodes, "y")
            assert x.is_visiting
            assert x.fd != before[0]
            assert not y.is_visiting  # its descriptor is in use
            assert y.fd == before[1]


@in_main_loop
async def test_descriptors_of_files_that_were_deleted_beside_the_mount_are_given_up(
    folder: Path,
) -> None:
    async with opened_table(folder) as inodes:
        inodes.devices.root.kind = "ext4"
        x, y, z = (look_up(inodes, name) for name in "xyz")
        async with Pinned(inodes, z.node_id):
            for name in "xz":
                (folder / name).unlink()
            inodes.sweep()
            assert [inode.fd >= 0 for inode in (x, y, z)] == [False, True, True]


@in_main_loop
async def test_no_file_of_a_server_is_looked_at_by_the_sweep(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        inodes.devices.root.kind = "nfs4"
        x = look_up(inodes, "x")
        (folder / "x").unlink()
        inodes.sweep()
        assert x.fd >= 0


@in_main_loop
async def test_a_second_descriptor_of_an_inode_is_closed(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        x = look_up(inodes, "x")
        first, second = x.fd, os.open(folder / "x", os.O_PATH)
        inodes.give(x, second)
        assert x.fd == first
        with pytest.raises(OSError):
            os.fstat(second)


@in_main_loop
async def test_an_inode_is_known_by_the_name_by_which_it_was_last_found(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        a, x = look_up(inodes, "a"), look_up(inodes, "x")
        os.link(folder / "x", folder / "a/link")
        assert look_up(inodes, "link", a) is x
        assert x.path() == b"a/link"
        fd = os.open(folder / "x", os.O_PATH)
        assert inodes.adopt_unnamed(identify(fd), fd) is x
        assert (x.path(), x.lookups) == (b"a/link", 3)
        fd = os.open(folder, os.O_PATH)
        root = inodes.adopt(statx(fd), a, b"loop", fd)
        assert root is inodes.root
        assert root.path() == b""


@in_main_loop
async def test_an_inode_found_without_a_name_has_its_number_in_messages(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        fd = os.open(folder / "x", os.O_PATH)
        x = inodes.adopt_unnamed(identify(fd), fd)
        assert x.path() == b"inode %d" % x.node_id


@in_main_loop
async def test_an_inode_of_a_device_that_cannot_be_probed_is_not_left_pinned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _writable: bool) -> None:
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr("mirrorfs.fs.devices.probe_at", refuse)
    async with opened_table(folder) as inodes:
        x = look_up(inodes, "x")
        x.device.abilities = None
        assert await fails_with(errno.EIO, inodes.pin(x))
        assert x.pins == 0
        with pytest.raises(OSError) as caught:
            inodes.abilities(x)
        assert caught.value.errno == errno.ESTALE


@in_main_loop
async def test_pinning_several_inodes_of_which_one_is_stale_pins_none(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        x = look_up(inodes, "x")
        with pytest.raises(OSError):
            async with Pinned(inodes, x.node_id, 10**9):
                pytest.fail("an inode that is not known was pinned")
        assert x.pins == 0


@in_main_loop
async def test_the_end_of_the_table_closes_every_descriptor(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        known = [look_up(inodes, name) for name in "xyza"]
        inodes.lose_name(known[0])
        await inodes.pin(known[1])
        inodes.close()
        assert {inode.fd for inode in known} == {inodes.root.fd} == {-1}
        assert (len(inodes), inodes.descriptors) == (0, 0)
