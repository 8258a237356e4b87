"""Inode numbers, as clients see them: one for an inode, whatever the kernel forgets."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.disks import MKFS, image_mounted, loop_mounted
from tests.mount.forgetting import drop_caches, forget_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror


def fill(folder: Path) -> None:
    """Folders and hard links."""
    (folder / "a/b").mkdir(parents=True)
    for number in range(20):
        (folder / f"a/{number}").write_text(f"{folder} {number}")
        os.link(folder / f"a/{number}", folder / f"a/b/{number}")


def tree_numbers(folder: Path) -> dict[str, int]:
    """The inode number of everything in a folder, by stat; that of a listing is the same."""
    found: dict[str, int] = {}
    for parent, _, _ in os.walk(folder):
        with os.scandir(parent) as entries:
            for entry in entries:
                found[os.path.relpath(entry.path, folder)] = entry.inode()
                assert os.lstat(entry.path).st_ino == entry.inode(), entry.path
    assert found
    return found


@pytest.fixture(params=["subvolume", "ext4", "xfs"])
def below(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in which `inner` is another device."""
    outer = "btrfs" if request.param == "subvolume" else "ext4"
    (tmp_path / "outer").mkdir()
    with loop_mounted(outer, tmp_path / "outer", 256) as folder:
        if request.param == "subvolume":
            run("btrfs", "subvolume", "create", folder / "inner")
            fill(folder / "inner")
            yield folder
        else:
            image = tmp_path / "inner.img"
            with image.open("wb") as file:
                file.truncate((320 if request.param == "xfs" else 64) << 20)
            run(*MKFS[request.param], image)
            with image_mounted(image, folder / "inner"):
                fill(folder / "inner")
                yield folder


def test_numbers_on_another_device_stay_when_the_kernel_forgets_and_over_a_remount(
    below: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(below)
    inner = mirror.path / "inner"
    seen = tree_numbers(mirror.path)
    assert len(set(seen.values())) == len(seen) - 20  # each of them has another name
    forget_all(mirror)
    assert tree_numbers(mirror.path) == seen
    forget_all(mirror)
    assert (inner / "a/b/7").stat().st_ino == seen["inner/a/b/7"]  # by another way
    mirror.umount()
    mirror.mount()
    assert (inner / "a/b/8").stat().st_ino == seen["inner/a/b/8"]
    assert tree_numbers(mirror.path) == seen


def test_numbers_stay_when_the_file_system_below_is_mounted_again(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    """Also as another device, and while the kernel still knows what was there."""
    mirror = mount_mirror(ext4_folder, "attr_timeout=0")
    image, copy = tmp_path / "image", tmp_path / "copy"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run(*MKFS["ext4"], image)
    point = ext4_folder / "inner"
    with image_mounted(image, point):
        fill(point)
        seen, dev = tree_numbers(mirror.path), point.stat().st_dev
        run("sync", "-f", point)
    run("cp", "--sparse=always", image, copy)  # so that it is another device for certain
    point.rmdir()
    with image_mounted(image, tmp_path / "elsewhere"), image_mounted(copy, point):
        assert point.stat().st_dev != dev
        assert tree_numbers(mirror.path) == seen


def test_two_copies_of_one_file_system_share_no_number(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    image, copy = tmp_path / "image", tmp_path / "copy"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run(*MKFS["ext4"], image)
    with image_mounted(image, tmp_path / "filled"):
        fill(tmp_path / "filled")
    run("cp", "--sparse=always", image, copy)
    mirror = mount_mirror(ext4_folder)
    with image_mounted(image, ext4_folder / "one"), image_mounted(copy, ext4_folder / "two"):
        one, two = (tree_numbers(mirror.path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


@pytest.mark.parametrize("below", ["subvolume"], indirect=True)
@pytest.mark.parametrize("tool", ["cp", "tar"])
def test_hard_links_stay_linked_in_a_copy_while_the_kernel_forgets(
    below: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path, tool: str
) -> None:
    """While the kernel forgets all the time."""
    mirror = mount_mirror(below)
    copy, is_done = tmp_path / "copied", threading.Event()

    def forget() -> None:
        while not is_done.is_set():
            drop_caches()

    forgetting = threading.Thread(target=forget)
    forgetting.start()
    try:
        if tool == "cp":
            run("cp", "-a", mirror.path / "inner", copy)
        else:
            copy.mkdir()
            run("bash", "-c", f"tar -C {mirror.path}/inner -c . | tar -C {copy} -x")
    finally:
        is_done.set()
        forgetting.join()
    for number in range(20):
        first, second = copy / f"a/{number}", copy / f"a/b/{number}"
        assert first.samefile(second)
        assert first.stat().st_nlink == 2


def test_the_number_of_a_file_that_was_deleted_beside_the_mount_is_used_again(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """Another file gets it while the kernel still knows the first."""
    mirror = mount_mirror(ext4_folder)
    mirror.write("old", 0, b"old")
    number = (mirror.path / "old").stat().st_ino
    assert number == (ext4_folder / "old").stat().st_ino
    (ext4_folder / "old").unlink()
    end = time.monotonic() + 60
    while True:
        (ext4_folder / "new").write_bytes(b"new")
        if (ext4_folder / "new").stat().st_ino == number or time.monotonic() > end:
            break
        (ext4_folder / "new").unlink()
        time.sleep(0.05)
    assert (ext4_folder / "new").stat().st_ino == number
    assert (mirror.path / "new").stat().st_ino == number
    assert mirror.read("new") == b"new"
    forget_all(mirror)
    assert (mirror.path / "new").stat().st_ino == number
