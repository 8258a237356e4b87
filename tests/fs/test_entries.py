"""What clients see of inodes, and how those that were found become known."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing.statx import Status, identify
from mirrorfs.fs import entries as entries_module
from mirrorfs.fs.entries import Entries
from mirrorfs.fs.inode_numbers import FIRST_OTHER_ID, ROOT_ID
from tests.fs.tables import in_main_loop, look_up, opened_table

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable

SECONDS = 1.5


class OpenFiles:
    """As if each file were a stale tail shorter."""

    def visible(self, _inode: Inode, status: Status) -> Status:
        return status._replace(size=max(0, status.size - 3))


def entries_of(inodes: InodeTable) -> Entries:
    open_files: Any = OpenFiles()
    return Entries(inodes, open_files, SECONDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "sub").mkdir()
    return tmp_path


def found(folder: Path, name: str, **changed: int) -> tuple[int, Status]:
    """As a lookup finds it, on another device if `changed` says so."""
    fd = os.open(folder / name, os.O_PATH)
    return fd, identify(fd)._replace(**changed)


@in_main_loop
async def test_an_entry_shows_what_clients_see_under_the_number_of_the_mount(
    folder: Path,
) -> None:
    async with opened_table(folder) as inodes:
        fd, status = found(folder, "file")
        entry = entries_of(inodes).adopt(inodes.root, b"file", fd, status)
        inode = inodes.get(entry.node_id)
        assert entry.status.size == 4
        assert entry.generation == inode.generation
        assert (entry.name_seconds, entry.attribute_seconds) == (SECONDS, SECONDS)
        assert (inode.lookups, inode.name, inode.parent) == (1, b"file", inodes.root)


@in_main_loop
async def test_attributes_of_a_pinned_inode_are_those_of_now(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        inode = look_up(inodes, "file")
        await inodes.pin(inode)
        (folder / "file").write_bytes(b"longer content")
        entry = await entries_of(inodes).attributes(inode)
        assert entry.status.size == 11
        assert inode.lookups == 1
        inodes.unpin(inode)


@in_main_loop
async def test_a_folder_on_a_local_device_has_the_number_of_its_place(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        inodes.devices.at(5).kind = "ext4"
        inodes.devices.at(5).mounts.add(77)
        fd, status = found(folder, "sub", dev=5, mount_id=77)
        entry = entries_of(inodes).adopt(inodes.root, b"sub", fd, status)
        assert entry.node_id >= FIRST_OTHER_ID
        assert entry.attribute_seconds == SECONDS
        assert inodes.get(entry.node_id).key == (5, -1 - 77, -1)


@pytest.mark.parametrize("name", ["sub", "file"])
@in_main_loop
async def test_attributes_of_what_a_server_has_are_asked_for_at_each_use(
    folder: Path, name: str
) -> None:
    async with opened_table(folder) as inodes:
        inodes.devices.at(5).kind = "nfs4"
        inodes.devices.at(5).mounts.add(77)
        fd, status = found(folder, name, dev=5, mount_id=77)
        entry = entries_of(inodes).adopt(inodes.root, b"name", fd, status)
        assert (entry.name_seconds, entry.attribute_seconds) == (SECONDS, 0)
        assert inodes.get(entry.node_id).key[1] < 0


@in_main_loop
async def test_a_file_bound_from_a_local_device_keeps_its_own_identity(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        inodes.devices.at(5).kind = "xfs"
        inodes.devices.at(5).mounts.add(77)
        fd, status = found(folder, "file", dev=5, mount_id=77)
        entry = entries_of(inodes).adopt(inodes.root, b"name", fd, status)
        assert inodes.get(entry.node_id).key == status.key


@in_main_loop
async def test_the_mount_below_its_own_folder_is_a_loop(folder: Path) -> None:
    async with opened_table(folder) as inodes:
        inodes.devices.own_dev = 5
        fd, status = found(folder, "sub", dev=5)
        with pytest.raises(OSError) as caught:
            entries_of(inodes).adopt(inodes.root, b"sub", fd, status)
        assert caught.value.errno == errno.ELOOP
        with pytest.raises(OSError):
            os.fstat(fd)
        assert len(inodes) == 1


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
@in_main_loop
async def test_the_root_on_a_dead_disk_is_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(_fd: int, ask: bool = True) -> Status:
        raise OSError(errno.EIO, "injected")

    async with opened_table(folder) as inodes:
        inodes.devices.root.kind = kind
        inode, entries = look_up(inodes, "file"), entries_of(inodes)
        monkeypatch.setattr(entries_module, "statx", fail)
        entry = await entries.attributes(inodes.root)
        assert entry.node_id == ROOT_ID
        assert stat.S_ISDIR(entry.status.mode)
        with pytest.raises(OSError, match="injected"):
            await entries.attributes(inode)
