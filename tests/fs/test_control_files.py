"""What the control files say of a file system that is in use."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from mirrorfs.fs.entry import WriteRequest
from mirrorfs.fs.inode_numbers import ROOT_ID
from tests.fs.filesystems import MYSELF, make_file, opened_filesystem, read_control
from tests.fs.tables import in_main_loop

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorfs.fs.filesystem import Filesystem


async def config(fs: Filesystem) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await read_control(fs, b"config.json"))
    return found


async def names_of_files(fs: Filesystem) -> list[str]:
    return list(json.loads(await read_control(fs, b"files.json"))["files"])


@in_main_loop
async def test_files_json_names_files_by_where_they_are_now(tmp_path: Path) -> None:
    async with opened_filesystem(tmp_path) as fs:
        node_id, handle = await make_file(fs, b"new\xff%")
        await fs.content.write(WriteRequest(handle, 0, b"data"))
        assert await names_of_files(fs) == ["new%FF%25"]
        await fs.names.rename(ROOT_ID, b"new\xff%", ROOT_ID, b"moved", 0, MYSELF)
        assert await names_of_files(fs) == ["moved"]
        await fs.files.release(handle)
        await fs.names.forget([(node_id, 1)])
        assert await names_of_files(fs) == ["moved"]
        await fs.names.unlink(ROOT_ID, b"moved")


@in_main_loop
async def test_files_json_forgets_a_file_that_is_no_more(tmp_path: Path) -> None:
    async with opened_filesystem(tmp_path) as fs:
        node_id, handle = await make_file(fs, b"file")
        await fs.content.write(WriteRequest(handle, 0, b"data"))
        await fs.files.release(handle)
        await fs.names.unlink(ROOT_ID, b"file")
        await fs.names.forget([(node_id, 1)])
        assert await names_of_files(fs) == []
        assert b"received_bytes 4\n" in await read_control(fs, b"stats")


@in_main_loop
async def test_config_json_shows_the_values_that_the_mount_has_found(tmp_path: Path) -> None:
    async with opened_filesystem(tmp_path, "zeros=keep,block=64k") as fs:
        found = await config(fs)
        assert found["options"]["zeros"] == {"value": "keep", "from": "given"}
        assert found["options"]["block"] == {"value": 65536, "from": "given"}
        assert found["options"]["log"] == {"value": "stderr", "from": "default"}
        assert found["options"]["state"] == {"value": "", "from": "default"}
        assert found["file_system"]["block_bytes"] == 65536
        assert found["extras"] == {"a": {"on": True}, "seeds": {"on": False, "reason": "no reason"}}


@in_main_loop
async def test_config_json_shows_where_the_state_folder_is(tmp_path: Path) -> None:
    (tmp_path / "backing").mkdir()
    state = os.fsencode(tmp_path) + b"/state\xff"
    async with opened_filesystem(tmp_path / "backing", state_folder=state) as fs:
        found = await config(fs)
        assert found["options"]["state"]["value"] == f"{tmp_path}/state%FF"
        assert found["options"]["block"]["value"] == found["file_system"]["block_bytes"]
        assert found["extras"]["seeds"] == {"on": True}


@in_main_loop
async def test_reset_starts_the_counts_anew(tmp_path: Path) -> None:
    async with opened_filesystem(tmp_path) as fs:
        _, handle = await make_file(fs, b"file")
        await fs.content.write(WriteRequest(handle, 0, b"data"))
        folder = await fs.names.lookup(ROOT_ID, b".mirrorfs")
        entry = await fs.names.lookup(folder.node_id, b"reset")
        opened = await fs.files.open(entry.node_id, os.O_WRONLY, MYSELF)
        assert await fs.content.write(WriteRequest(opened.handle, 0, b"1\n")) == 2
        found = json.loads(await read_control(fs, b"stats.json"))
        assert found["counters"]["received_bytes"] == 4
        assert found["since_reset"]["received_bytes"] == 0
