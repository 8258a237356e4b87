"""File systems that are mounted below the backing folder, and the mount itself among them."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import run, wait_for
from tests.disks import MKFS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror

# Longer than descriptors stay after their last use, and than a sweep takes to come.
IDLE_SECONDS = 3.5


@contextlib.contextmanager
def mounted(point: Path, *words: str | Path) -> Iterator[Path]:
    """`mount words point`, until the end of the block at the latest."""
    point.mkdir(exist_ok=True)
    run("mount", *words, point)
    try:
        yield point
    finally:
        run("umount", "--lazy", point, check=False)


def timed(*command: str | Path) -> str:
    """Output and errors of a client of the mount that must not hang."""
    done = run("timeout", "-s", "KILL", "60", *command, check=False)
    assert done.returncode != -9, command
    return done.stdout + done.stderr


def test_the_mount_below_its_own_folder_is_a_loop(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "attr_timeout=0")
    mirror.write("file", 0, b"content")
    with mounted(ext4_folder / "rec", "--bind", mirror.path):
        assert timed("ls", mirror.path).split() == ["file", "rec"]
        for path in ("rec", "rec/file"):
            assert "Too many levels of symbolic links" in timed("stat", mirror.path / path)
        assert timed("cat", mirror.path / "file") == "content"
        for change in (["rmdir", "rec"], ["mv", "rec", "other"], ["mv", "file", "rec"]):
            assert timed(change[0], *(mirror.path / word for word in change[1:])), change
        assert timed("find", mirror.path, "-name", "file").splitlines()[0].endswith("/file")
    assert timed("ls", mirror.path / "rec") == ""


def test_a_file_of_the_mount_below_its_own_folder_is_a_loop(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "attr_timeout=0")
    mirror.write("file", 0, b"content")
    (ext4_folder / "alias").touch()
    run("mount", "--bind", mirror.path / "file", ext4_folder / "alias")
    try:
        assert "Too many levels" in timed("cat", mirror.path / "alias")
        assert timed("cat", mirror.path / "file") == "content"
    finally:
        run("umount", "--lazy", ext4_folder / "alias")


def test_the_whole_tree_bound_below_the_backing_folder_is_served(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "attr_timeout=0")
    # Else the bind mount would come to be within itself, as the tree is shared as a rule.
    with mounted(ext4_folder / "all", "--rbind", "--make-rslave", "/"):
        assert "etc" in timed("ls", mirror.path / "all").split()
        within = f"{mirror.path}/all{mirror.path}"
        assert "Too many levels" in timed("ls", within)
        mirror.write("file", 0, b"x")
        assert mirror.read("file") == b"x"


def test_attributes_come_from_the_file_system_that_is_mounted_there(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    """The nested one is not local: another mirrorfs."""
    below, nested = tmp_path / "below", ext4_folder / "nested"
    below.mkdir()
    nested.mkdir()
    inner = mount_mirror(below, "attr_timeout=0,history=0")
    run("mount", "--bind", inner.path, nested)
    try:
        outer = mount_mirror(ext4_folder, "attr_timeout=0")
        (below / "folder").mkdir(mode=0o711)
        below.chmod(0o705)
        assert os.listdir(outer.path) == ["nested"]
        for size in (10, 5000, 7):
            (below / "folder/file").write_bytes(b"x" * size)
            os.utime(below / "folder/file", ns=(size, 10**18 + size))
            for path in ("", "folder", "folder/file"):
                seen, true = os.lstat(outer.path / "nested" / path), os.lstat(below / path)
                for name in ("mode", "size", "uid", "gid", "nlink", "mtime_ns", "ctime_ns"):
                    assert getattr(seen, f"st_{name}") == getattr(true, f"st_{name}"), name
            with os.scandir(outer.path / "nested/folder") as entries:
                assert [entry.stat().st_size for entry in entries] == [size]
        outer.write("nested/folder/file", 0, b"through both")
        assert (below / "folder/file").read_bytes() == b"through both"
        os.setxattr(outer.path / "nested/folder/file", "user.a", b"1")
        assert os.listxattr(outer.path / "nested/folder/file") == ["user.a"]
        with pytest.raises(OSError) as caught:
            os.rename(outer.path / "nested/folder/file", outer.path / "file")
        assert caught.value.errno == errno.EXDEV
        with pytest.raises(OSError) as caught:
            os.link(outer.path / "nested/folder/file", outer.path / "file")
        assert caught.value.errno == errno.EXDEV
        run("cp", outer.path / "nested/folder/file", outer.path / "copy")
        assert outer.read("copy") == b"through both"
    finally:
        run("umount", "--lazy", nested)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "bind"])
def test_a_file_system_below_that_is_not_in_use_can_be_unmounted(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path, kind: str
) -> None:
    """Although the kernel still knows the files there, and does not look their names up anew."""
    nested = ext4_folder / "nested"
    words: list[str | Path] = ["-t", "tmpfs", "none"]
    if kind == "ext4":
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        run(*MKFS["ext4"], image)
        words = ["-o", "loop", image]
    elif kind == "bind":
        (ext4_folder / "elsewhere").mkdir()
        words = ["--bind", ext4_folder / "elsewhere"]
    mirror = mount_mirror(ext4_folder, "attr_timeout=3600")
    with mounted(nested, *words):
        deep = mirror.path / "nested/a/b/c"
        deep.mkdir(parents=True)
        for number in range(50):
            mirror.write(f"nested/a/b/c/{number}", 0, b"content")
        os.rename(mirror.path / "nested/a/b", mirror.path / "nested/a/moved")
        fd = os.open(mirror.path / "nested/a/moved/c/1", os.O_RDONLY)
        time.sleep(IDLE_SECONDS)
        assert "busy" in run("umount", nested, check=False).stderr
        os.close(fd)
        assert mirror.read("nested/a/moved/c/7") == b"content"
        assert len(os.listdir(mirror.path / "nested/a/moved/c")) == 50
        wait_for(lambda: run("umount", nested, check=False).returncode == 0)
    assert os.listdir(mirror.path / "nested") == []


def test_another_file_system_at_a_known_mount_point_is_met_anew(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    nested, below = ext4_folder / "nested", tmp_path / "below"
    below.mkdir()
    (below / "inner").write_bytes(b"inner")
    mirror = mount_mirror(ext4_folder, "attr_timeout=0")
    with mounted(nested, "-t", "tmpfs", "none"):
        mirror.write("nested/file", 0, b"x" * 5000)
        assert mirror.holes("nested/file") == []
        mirror.write("nested/file", 0, bytes(4096))
        assert mirror.holes("nested/file") == [(0, 4096)]
        wait_for(lambda: run("umount", nested, check=False).returncode == 0)
    inner = mount_mirror(
        below, "attr_timeout=0,history=0"
    )  # as a rule, with the number the tmpfs had
    with mounted(nested, "--bind", inner.path):
        assert mirror.read("nested/inner") == b"inner"
        (below / "inner").write_bytes(b"other")
        assert mirror.read("nested/inner") == b"other"
        assert os.stat(mirror.path / "nested/inner").st_size == 5
