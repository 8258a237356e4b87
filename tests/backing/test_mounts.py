"""The mount table: as text, and of this machine."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import mounts
from mirrorfs.backing.mounts import Mount, parse_table
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = b"36 35 98:0 /below /path rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"


def parsed(line: bytes) -> Mount:
    (mount,) = parse_table(line)
    return mount


def test_the_fields_of_a_mount() -> None:
    assert parsed(ROOT) == Mount(
        mount_id=36,
        root=b"/below",
        path=b"/path",
        fs_type="ext3",
        source=b"/dev/root",
        device="98:0",
        user_id=0,
        parent_id=35,
    )


@pytest.mark.parametrize(
    "optional", [b"", b" shared:1", b" shared:1 master:2", b" master:1 propagate_from:2 unbindable"]
)
def test_any_number_of_optional_fields_is_passed_over(optional: bytes) -> None:
    line = ROOT.replace(b" master:1", optional)
    assert parsed(line) == parsed(ROOT)


def test_escapes_in_paths_and_source_are_undone() -> None:
    line = rb"1 2 0:5 /a\040b /c\011d\012e\134f rw - ext4 /dev/g\040- rw"
    mount = parsed(line)
    assert (mount.root, mount.path, mount.source) == (b"/a b", b"/c\td\ne\\f", b"/dev/g -")


def test_bytes_that_are_no_utf8_stay() -> None:
    assert parsed(b"1 2 0:5 / /\xff\xe9 rw - ext4 /dev/\xfe rw").path == b"/\xff\xe9"


def test_a_source_may_be_empty() -> None:
    mount = parsed(b"1 2 0:5 / /mnt rw - tmpfs  rw,size=4k")
    assert (mount.fs_type, mount.source) == ("tmpfs", b"")


def test_the_source_of_a_mirrorfs_is_its_backing_folder() -> None:
    line = rb"1 2 0:5 / /mnt rw - %s /srv/caf\134xe9\040\134x5c rw,user_id=65534,group_id=1"
    mirror = parsed(line % b"fuse.mirrorfs")
    assert (mirror.source, mirror.user_id) == (b"/srv/caf\xe9 \\", 65534)
    assert parsed(line % b"ext4").source == rb"/srv/caf\xe9 \x5c"


def test_the_number_of_a_device_is_that_of_stat() -> None:
    assert parsed(ROOT).dev == os.makedev(98, 0)
    assert Mount(1, b"", b"", "unknown", b"", "").dev == -1


@contextlib.contextmanager
def tmpfs(point: Path, source: str) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", source, point)
    try:
        yield point
    finally:
        run("umount", "--lazy", point)


def test_of_several_mounts_on_one_path_the_last_lies_on_top(tmp_path: Path) -> None:
    point = tmp_path / "odd \\ name"
    path = os.fsencode(point)
    assert mounts.mounted_at(path) is None
    with tmpfs(point, "first"):
        with tmpfs(point, "second"):
            found = [mount.source for mount in mounts.mount_table() if mount.path == path]
            assert found == [b"first", b"second"]
            top = mounts.mounted_at(path)
            assert top is not None
            assert (top.source, top.dev) == (b"second", os.stat(point).st_dev)
        top = mounts.mounted_at(path)
        assert top is not None
        assert top.source == b"first"


def test_the_mount_of_a_descriptor_and_what_is_mounted_inside_it(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "outer", "outer") as outer, tmpfs(outer / "inner", "inner") as inner:
        for folder, source in ((outer, b"outer"), (inner, b"inner")):
            fd = os.open(folder, os.O_PATH)
            assert mounts.mount_of(fd).source == source
            os.close(fd)
        mount = mounts.mounted_at(os.fsencode(outer))
        assert mount is not None
        assert mounts.inside(mount) == [os.fsencode(inner)]


def test_the_mount_of_a_descriptor_that_the_namespace_does_not_show(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "gone", "gone") as folder:
        fd = os.open(folder, os.O_PATH)
    found = mounts.mount_of(fd)
    os.close(fd)
    assert (found.fs_type, found.dev, found.path) == ("unknown", -1, b"")
