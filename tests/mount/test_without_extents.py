"""Files on ext4 that map their blocks one by one: SEEK_DATA passes over what was written to them
and is not on the disk yet, so nothing may rest on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.disks import MKFS, image_mounted
from tests.mounted import Mirror

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4096
DATA = b"B" * BLOCK
AT = 16 * BLOCK
OLD_FILES = ("file", "copied", "zeroed", "source", "target", "basis")


@pytest.fixture(scope="module", params=["was ext3", "made without", "converted"])
def mirror(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mirror]:
    """A mount on a disk that was ext3, one that was made without extents, or one that has extents
    by now, but not for its old files; with empty files.
    """
    place = tmp_path_factory.mktemp("disk")
    image = place / "image"
    image.touch()
    os.truncate(image, 256 * MIB)
    if request.param == "made without":
        run(*MKFS["ext4"], "-O", "^extents,^64bit", image)
    else:
        run("mkfs.ext3", "-q", "-F", image)
    with image_mounted(image, place / "disk", "-t", "ext4") as disk:
        backing, point = disk / "backing", place / "mirror"
        backing.mkdir()
        point.mkdir()
        for name in OLD_FILES:
            (backing / name).touch()
        if request.param == "converted":
            run("umount", disk)
            run("tune2fs", "-O", "extents,uninit_bg,dir_index", image)
            # 1: errors were corrected
            assert run("e2fsck", "-fy", image, check=False).returncode <= 1
            run("mount", "-o", "loop", "-t", "ext4", image, disk)
        made = Mirror(backing, point, place / "log")
        made.mount()
        yield made
        made.end()
        assert not made.troubles()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def test_data_behind_a_hole_is_read_and_zeroed(mirror: Mirror) -> None:
    path, below = mirror.path / "file", mirror.backing / "file"
    with opened(path) as fd:
        os.ftruncate(fd, MIB)
        os.pwrite(fd, DATA, AT)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 2 * AT, 0) == bytes(AT) + DATA + bytes(AT - BLOCK)
        assert os.lseek(fd, 0, os.SEEK_DATA) <= AT
        os.pwrite(fd, bytes(2 * AT), 0)
        assert os.pread(fd, MIB, 0) == below.read_bytes() == bytes(MIB)


def test_zeros_over_data_are_written_after_writes_that_changed_nothing(mirror: Mirror) -> None:
    path, below = mirror.path / "zeroed", mirror.backing / "zeroed"
    with opened(path) as fd:
        os.ftruncate(fd, MIB)
        for _ in range(3):
            os.pwrite(fd, DATA, AT)
        os.pwrite(fd, bytes(BLOCK), AT)
        assert below.read_bytes() == bytes(MIB)
        for _ in range(3):
            os.pwrite(fd, DATA, AT)
        os.pwrite(fd, bytes(AT), AT // 2)
        assert below.read_bytes() == bytes(MIB)


def test_rsync_makes_an_older_copy_equal(mirror: Mirror, tmp_path: Path) -> None:
    source, path, below = tmp_path / "copied", mirror.path / "copied", mirror.backing / "copied"
    old = bytearray(4 * MIB)
    # Away from where requests begin.
    places = range(AT, len(old), 256 * KIB)
    for start in places:
        old[start : start + BLOCK] = os.urandom(BLOCK)
    # It is not on the disk yet.
    with opened(below) as fd:
        os.ftruncate(fd, len(old))
        for start in places:
            os.pwrite(fd, old[start : start + BLOCK], start)
    new = old.copy()
    new[MIB : 2 * MIB] = bytes(MIB)
    new[100 * KIB : 104 * KIB] = os.urandom(BLOCK)
    source.write_bytes(new)
    # rsync passes over a file whose time is the same second.
    os.utime(source, (time.time() + 2, time.time() + 2))
    run("rsync", "-a", "--inplace", source, path)
    assert path.read_bytes() == below.read_bytes() == new


def test_copy_file_range_copies_data_that_is_not_on_the_disk_yet(mirror: Mirror) -> None:
    with opened(mirror.path / "source") as source, opened(mirror.path / "target") as target:
        os.ftruncate(source, MIB)
        os.pwrite(source, DATA, AT)
        assert os.copy_file_range(source, target, MIB, 0, 0) == MIB
        assert (mirror.backing / "target").read_bytes() == os.pread(source, MIB, 0)
        assert os.pread(target, BLOCK, AT) == DATA


def test_a_truncated_file_is_compared_and_never_seems_a_hole(mirror: Mirror) -> None:
    """What clients see is what was written, over old content that is not on the disk yet."""
    below, size = mirror.backing / "basis", 4 * MIB
    with opened(below) as fd:
        os.ftruncate(fd, size)
        os.pwrite(fd, b"old!" * (MIB // 2), MIB + AT)
    with opened(mirror.path / "basis") as fd:
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"new!" * (MIB // 4), 0)
        os.pwrite(fd, b"old!" * (MIB // 8), 3 * MIB // 2)
        expected = b"new!" * (MIB // 4) + bytes(MIB // 2) + b"old!" * (MIB // 8)
        assert os.pread(fd, size, 0) == expected
        assert os.fstat(fd).st_blocks * 512 >= 3 * MIB // 2
        os.ftruncate(fd, size)
        assert os.pread(fd, size, 0) == expected.ljust(size, b"\0")
    assert below.read_bytes() == expected.ljust(size, b"\0")


def test_config_json_says_whether_holes_of_new_files_are_believed(
    mirror: Mirror, request: pytest.FixtureRequest
) -> None:
    found = json.loads((mirror.path / ".mirrorfs/config.json").read_bytes())
    has_extents = "converted" in request.node.name
    assert found["file_system"]["seek_data_trusted"] is has_extents
