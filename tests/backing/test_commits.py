"""A commit of a real file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import commits
from tests.commands import run
from tests.disks import image_mounted, loop_mounted

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = os.urandom(4096) * 5


@pytest.mark.parametrize("committed", [True, False])
def test_a_committed_file_is_there_after_a_power_cut(tmp_path: Path, committed: bool) -> None:
    disk = tmp_path / "after the cut"
    with loop_mounted("btrfs", tmp_path, 300) as folder:
        fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, CONTENT, 0)
        if committed:
            commits.commit(fd)
        os.close(fd)
        run("cp", "--sparse=always", tmp_path / "btrfs.img", disk)
    with image_mounted(disk, tmp_path / "found") as found:
        left = [path.read_bytes() for path in found.iterdir()]
    assert left == ([CONTENT] if committed else [])


def test_only_btrfs_can_commit() -> None:
    assert commits.can_commit("btrfs")
    assert not any(commits.can_commit(kind) for kind in ("ext4", "xfs", "tmpfs"))
