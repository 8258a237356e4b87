"""Whether reading through the mount moves times of access below: client and mount say so."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.commands import as_nobody, run
from tests.posix.checks import let_others_through

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

# Older than the time of change, so that even relatime moves it at the next read.
OLD = 10**18


def read(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        assert os.read(fd, 100) == b"content"
    finally:
        os.close(fd)


def enumerate_names(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | flags)
    try:
        assert os.listdir(fd) == ["inside"]
    finally:
        os.close(fd)


@pytest.fixture
def backing(ext4_folder: Path) -> Path:
    return fill(ext4_folder)


def fill(folder: Path) -> Path:
    (folder / "dir").mkdir()
    (folder / "dir/inside").touch()
    (folder / "file").write_bytes(b"content")
    for name in ("dir", "file"):
        os.utime(folder / name, ns=(OLD, OLD + 1))
    return folder


def moved(backing: Path) -> set[str]:
    """Of which names the time of access has moved below."""
    return {name for name in ("dir", "file") if (backing / name).stat().st_atime_ns != OLD}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"dir", "file"}),
        ("noatime", set()),
        ("nodiratime", {"file"}),
        ("noatime,strictatime", {"dir", "file"}),
        ("atime,noatime", set()),
        ("ro", set()),
    ],
)
def test_options_of_the_mount_say_whether_reading_moves_times(
    backing: Path, mount_mirror: Callable[..., Mirror], options: str, expected: set[str]
) -> None:
    mirror = mount_mirror(backing, options)
    read(mirror.path / "file")
    enumerate_names(mirror.path / "dir")
    assert moved(backing) == expected


def test_o_noatime_of_a_client_keeps_times_of_what_it_opens(mirror: Mirror) -> None:
    backing = fill(mirror.backing)
    read(mirror.path / "file", os.O_NOATIME)
    enumerate_names(mirror.path / "dir", os.O_NOATIME)
    assert not moved(backing)
    fd = os.open(mirror.path / "new", os.O_RDWR | os.O_CREAT | os.O_NOATIME)
    os.write(fd, b"content")
    os.utime(fd, ns=(OLD, OLD + 1))
    assert os.pread(fd, 100, 0) == b"content"
    os.close(fd)
    assert (backing / "new").stat().st_atime_ns == OLD


def test_o_noatime_of_a_client_keeps_times_of_files_without_the_extension(
    backing: Path, mount_mirror: Callable[..., Mirror], no_extension: str
) -> None:
    mirror = mount_mirror(backing, PYTHONPATH=no_extension)
    read(mirror.path / "file", os.O_NOATIME)
    assert not moved(backing)


def test_noatime_is_in_the_mount_table_and_in_config_json(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "noatime")
    assert os.statvfs(mirror.path).f_flag & os.ST_NOATIME
    found = json.loads((mirror.path / ".mirrorfs/config.json").read_bytes())["options"]
    assert found["noatime"] == {"value": True, "from": "given"}
    assert found["nodiratime"] == {"value": False, "from": "default"}


@pytest.mark.usefixtures("fuse_for_all")
def test_a_file_of_another_user_is_read_with_noatime(backing: Path, tmp_path: Path) -> None:
    """O_NOATIME is for the owner and for root; the daemon is neither."""
    point = tmp_path / "point"
    point.mkdir()
    os.chown(point, 65534, 65534)
    os.chown(backing, 65534, 65534)
    let_others_through(backing, point)
    as_nobody("mount", backing, point, "-o", "noatime")
    script = (
        "import os, sys; os.setgid(65534); os.setuid(65534); "
        "print(open(sys.argv[1] + '/file').read(), os.listdir(sys.argv[1] + '/dir'))"
    )
    try:
        assert run(sys.executable, "-c", script, point).stdout == "content ['inside']\n"
    finally:
        as_nobody("umount", point)
