"""statx(2) in C says what os.stat says, and more."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs import _native
from mirrorfs.backing.statx import Status, identify, statx
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_field_of_statx_is_that_of_stat(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 70_000)
    os.utime(tmp_path / "file", ns=(-1_500_000_000, 4_000_000_000_123_456_789))
    os.mknod(tmp_path / "device", stat.S_IFBLK | 0o600, os.makedev(300, 70_000))
    (tmp_path / "link").symlink_to("nowhere")
    folder = os.open(tmp_path, os.O_PATH)
    for name in (b"file", b"device", b"link", b""):
        found, true = statx(folder, name), os.lstat(os.path.join(os.fsencode(tmp_path), name))
        assert isinstance(found, Status)
        assert found[:9] == (
            true.st_mode, true.st_nlink, true.st_uid, true.st_gid, true.st_ino, true.st_size,
            true.st_blocks, true.st_blksize, true.st_atime_ns,
        )  # fmt: skip
        assert found.ctime_ns == true.st_ctime_ns
        assert found.mtime_ns == true.st_mtime_ns
        assert (found.rdev, found.dev) == (true.st_rdev, true.st_dev)
        assert found.key == (true.st_dev, true.st_ino, found.btime_ns)
        assert found.mount_id > 0
    os.close(folder)


def test_the_birth_time_is_the_one_that_stat1_shows(loop_fs: Path) -> None:
    (loop_fs / "file").write_bytes(b"")
    file = os.open(loop_fs / "file", os.O_PATH)
    born = statx(file).btime_ns
    os.close(file)
    seconds = int(run("stat", "--format=%W", loop_fs / "file").stdout)
    assert born // 10**9 == seconds > 0


def test_the_mount_id_tells_two_mounts_of_one_file_system_apart(tmp_path: Path) -> None:
    point = tmp_path / "bind"
    point.mkdir()
    run("mount", "--bind", tmp_path, point)
    folders = [os.open(path, os.O_PATH) for path in (tmp_path, point)]
    here, there = map(statx, folders)
    for folder in folders:
        os.close(folder)
    run("umount", point)
    assert here.key == there.key
    assert 0 < here.mount_id != there.mount_id > 0


def test_the_generation_is_the_same_by_name_and_by_descriptor(loop_fs: Path) -> None:
    (loop_fs / "file").write_bytes(b"")
    folder, file = os.open(loop_fs, os.O_PATH), os.open(loop_fs / "file", os.O_PATH)
    found = [identify(folder, b"file"), identify(file), identify(file, ask=False)]
    assert statx(file).generation == 0
    assert len({status.generation for status in found}) == 1
    assert 0 < found[0].generation < 1 << 32
    assert identify(folder).generation != found[0].generation
    os.close(folder)
    os.close(file)


@pytest.mark.parametrize("seconds", [-9_223_372_037, 9_223_372_036, 9_223_372_037, 1 << 40])
def test_times_need_not_fit_64_bits_of_nanoseconds(
    file_systems: Callable[[str], Path], tmp_path: Path, seconds: int
) -> None:
    folder = file_systems("btrfs") / tmp_path.name  # keeps any number of seconds
    folder.mkdir()
    time_ns = seconds * 10**9 + 999_999_999
    os.utime(folder, ns=(time_ns, time_ns))
    fd = os.open(folder, os.O_PATH)
    assert statx(fd).mtime_ns == time_ns
    assert statx(fd).atime_ns == time_ns
    os.close(fd)


@pytest.mark.parametrize("name", [b"absent", b"x" * 256])
def test_an_error_of_statx_is_the_one_of_os(tmp_path: Path, name: bytes) -> None:
    folder = os.open(tmp_path, os.O_PATH)
    with pytest.raises(OSError) as ours:
        statx(folder, name)
    with pytest.raises(OSError) as theirs:
        os.lstat(os.path.join(os.fsencode(tmp_path), name))
    os.close(folder)
    assert ours.value.errno == theirs.value.errno
    assert type(ours.value) is type(theirs.value)


@pytest.mark.parametrize(
    "args", [(), (Status, 0, "name", 0), (int, 0, b"", 0), (Status, "", b"", 0)]
)
def test_statx_refuses_arguments_of_another_type(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        _native.statx(*args)
