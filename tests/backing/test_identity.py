"""The identity of a file system after it was mounted again."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import identity, mounts
from tests.commands import run
from tests.disks import MKFS, image_mounted

if TYPE_CHECKING:
    from pathlib import Path


def id_of(path: Path, is_local: bool = True) -> bytes:
    fd = os.open(path, os.O_PATH)
    try:
        return identity.file_system_id(fd, mounts.mount_of(fd), is_local)
    finally:
        os.close(fd)


def made(kind: str, image: Path) -> Path:
    with image.open("wb") as file:
        file.truncate(320 << 20)
    run(*MKFS[kind], image)
    return image


@pytest.mark.parametrize("kind", MKFS)
def test_a_file_system_has_one_identity_wherever_it_is_mounted(kind: str, tmp_path: Path) -> None:
    first, second = (made(kind, tmp_path / name) for name in ("first", "second"))
    found, devices = [], []
    # The second takes the loop device that the first has had.
    for number, image in enumerate((first, second, first)):
        with contextlib.ExitStack() as stack:
            if number == 2:
                stack.enter_context(image_mounted(second, tmp_path / "before"))
            point = stack.enter_context(image_mounted(image, tmp_path / str(number)))
            (point / "folder").mkdir(exist_ok=True)
            assert id_of(point / "folder") == id_of(point)
            found.append(id_of(point))
            devices.append(os.stat(point).st_dev)
    assert found[0] == found[2] != found[1]
    assert all(one.startswith(kind.encode() + b" ") for one in found)


def test_each_subvolume_of_a_btrfs_has_an_identity_of_its_own(tmp_path: Path) -> None:
    with image_mounted(made("btrfs", tmp_path / "image"), tmp_path / "point") as point:
        for name in ("one", "two"):
            run("btrfs", "subvolume", "create", point / name)
        assert len({id_of(point), id_of(point / "one"), id_of(point / "two")}) == 3


def test_a_tmpfs_has_one_identity_for_its_life(tmp_path: Path) -> None:
    points = [tmp_path / name for name in ("one", "two", "bind")]
    for point in points:
        point.mkdir()
    for point in points[:2]:
        run("mount", "-t", "tmpfs", "none", point)
    run("mount", "--bind", points[0], points[2])
    try:
        one, two, bind = map(id_of, points)
    finally:
        for point in points:
            run("umount", "--lazy", point)
    assert one == bind != two


def test_a_file_system_that_is_not_local_is_known_by_its_source(tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    run("mount", "-t", "tmpfs", "server:/folder", point)
    try:
        assert id_of(point, is_local=False) == b"tmpfs server:/folder"
    finally:
        run("umount", "--lazy", point)
