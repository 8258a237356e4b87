"""A disk that dies under a mount: the mount stays in the tree, and costs nothing more and more."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.disks import loop_mounted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror


def test_mount_on_a_dead_disk_stays_where_it_is(
    tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """Else the next job would fill the folder below it."""
    with loop_mounted("xfs", tmp_path, 400) as disk:
        (disk / "backing").mkdir()
        mirror = mount_mirror(disk / "backing", "attr_timeout=0", noisy=True)
        for number in range(20):
            (mirror.path / f"file-{number}").write_text("x")
        os.listdir(mirror.path)
        pid = mirror.pid
        run("xfs_io", "-x", "-c", "shutdown", disk)
        swept = time.monotonic() + 3  # the daemon looks at what it knows once a second
        while time.monotonic() < swept:
            assert os.path.ismount(mirror.path)
            time.sleep(0.2)
        assert mirror.pid == pid
        with pytest.raises(OSError, match="Input/output"):
            (mirror.path / "new").write_text("x")


def test_dead_disk_inside_the_mount_costs_no_descriptors(
    ext4_folder: Path, tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    with loop_mounted("xfs", tmp_path, 400) as disk:
        (disk / "file").write_text("x")
        (ext4_folder / "nested").mkdir()
        run("mount", "--bind", disk, ext4_folder / "nested")
        try:
            mirror = mount_mirror(ext4_folder, "attr_timeout=0", noisy=True)
            os.stat(mirror.path / "nested/file")
            run("xfs_io", "-x", "-c", "shutdown", disk)
            for _ in range(20):  # until what lies in memory is used up
                with contextlib.suppress(OSError):
                    os.stat(mirror.path / "nested/file")
            folder = f"/proc/{mirror.pid}/fd"
            before = len(os.listdir(folder))
            for _ in range(200):
                with contextlib.suppress(OSError):
                    os.stat(mirror.path / "nested/file")
            assert len(os.listdir(folder)) < before + 50
        finally:
            mirror.end()
            run("umount", "--lazy", ext4_folder / "nested")
