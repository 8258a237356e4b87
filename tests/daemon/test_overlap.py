"""Backing folders that share files are not served by two daemons."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.mounts import Mount
from mirrorfs.daemon.overlap import overlap
from mirrorfs.errors import ExitCode
from tests.commands import mirrorfs, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror


def table(*lines: str) -> list[Mount]:
    """Mounts from `DEVICE ROOT PATH`."""
    words = [line.split() for line in ("8:1 / /", *lines)]
    return [
        Mount(number, root.encode(), path.encode(), "ext4", b"", device)
        for number, (device, root, path) in enumerate(words)
    ]


@pytest.mark.parametrize(
    ("one", "other", "lines", "shared"),
    [
        (b"/srv", b"/srv/backup", [], True),
        (b"/", b"/srv/backup", [], True),
        (b"/srv/backup2", b"/srv/backup", [], False),
        # a disk of its own inside the other folder, and beside it
        (b"/srv", b"/srv/backup", ["8:2 / /srv/backup"], True),
        (b"/srv", b"/data", ["8:2 / /srv/backup", "8:2 / /data"], True),
        (b"/srv", b"/data", ["8:2 / /data"], False),
        # bind mounts
        (b"/alias", b"/srv/backup", ["8:1 /srv /alias"], True),
        (b"/alias", b"/srv/backup", ["8:1 /srv/backup/sub /alias"], True),
        (b"/alias", b"/srv/backup", ["8:1 /srv/other /alias"], False),
        (b"/alias/x", b"/srv/backup", ["8:1 /srv/back /alias"], False),
        # something else lies over the folder now
        (b"/srv/backup/x", b"/srv/backup", ["8:2 / /srv/backup/x"], True),
        (b"/srv/backup", b"/old/sub", ["8:1 /old /srv/backup", "8:2 / /srv/backup"], False),
        # the same is mounted in both, but neither lies in the other
        (b"/a", b"/b", ["0:5 / /a/proc", "0:5 / /b/proc"], False),
        # subvolumes of one btrfs
        (b"/top", b"/vol", ["0:40 /@vol /vol", "0:40 / /top"], True),
        (b"/vol2", b"/vol", ["0:40 /@vol /vol", "0:40 /@vol2 /vol2"], False),
    ],
)
def test_overlap_by_the_mount_table(
    one: bytes, other: bytes, lines: list[str], shared: bool
) -> None:
    assert overlap(one, other, table(*lines)) is shared
    assert overlap(other, one, table(*lines)) is shared


def test_mount_refuses_overlapping_folders_and_takes_neighbours(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    served, sub = ext4_folder / "serv\xe9", ext4_folder / "serv\xe9/sub"
    alias, other, beside = tmp_path / "alias", tmp_path / "other", ext4_folder / "beside"
    for folder in (sub, alias, other, beside):
        folder.mkdir(parents=True)
    run("mount", "--bind", sub, alias)
    try:
        mirror = mount_mirror(served)
        for folder in (ext4_folder, sub, alias):
            done = mirrorfs("mount", folder, other, check=False)
            assert done.returncode == ExitCode.IN_USE
            assert (
                f"overlaps with {served}, which a mirrorfs serves on {mirror.path}" in done.stderr
            )
        assert not os.path.ismount(other)
        mount_mirror(beside)
        mirror.noisy = True
        mirror.kill()  # a dead one writes nothing
        mirrorfs("mount", sub, other, "-o", f"log={tmp_path}/log")
        mirrorfs("umount", other)
    finally:
        run("umount", alias)


def test_mount_refuses_folders_around_and_in_one_mounted_over_itself(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    over, sub = ext4_folder / "over", ext4_folder / "over/sub"
    sub.mkdir(parents=True)
    mirrorfs("mount", over, over, "-o", f"log={tmp_path}/log")
    try:
        done = mirrorfs("mount", ext4_folder, tmp_path, "-o", "nonempty", check=False)
        assert done.returncode == ExitCode.IN_USE
        done = mirrorfs("mount", sub, tmp_path, "-o", "nonempty", check=False)
        assert done.returncode == ExitCode.BACKING
    finally:
        mirrorfs("umount", over)
