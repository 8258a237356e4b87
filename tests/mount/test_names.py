"""Names, many files and descriptors, seen by a client of the mount."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import MIRRORFS, run, wait_for
from tests.disks import image_mounted
from tests.posix.checks import as_user, let_others_through, libc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

MANY = 2000  # of 512 descriptors a quarter is for files that are merely known


def test_a_name_may_hold_any_bytes(mirror: Mirror) -> None:
    names = [bytes([byte]) + b"x" for byte in range(1, 256) if byte != ord("/")]
    names += [b"n" * 255, b"\xff\xfe", "ñandú".encode(), b"a\nb", b" ", b"-rf"]
    folder = os.fsencode(mirror.path)
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(name)
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        assert (
            Path(os.fsdecode(os.path.join(os.fsencode(mirror.backing), name))).read_bytes() == name
        )
    files = os.path.join(folder, b".mirrorfs", b"files.json")
    assert "%FF%FE" in Path(os.fsdecode(files)).read_text()


def test_many_more_files_are_served_than_there_are_descriptors(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    many = ext4_folder / "many"
    many.mkdir()
    for number in range(MANY):
        (many / f"file-{number:05}").touch()
    point = tmp_path / "limited"
    point.mkdir()
    command = f"ulimit -n 512; exec {' '.join(MIRRORFS)} mount {ext4_folder} {point}"
    run("bash", "-c", f"{command} -o log={tmp_path}/log")
    try:
        with os.scandir(point / "many") as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
        assert len(sizes) == MANY
        for number in range(0, MANY, 7):
            (point / "many" / f"file-{number:05}").write_bytes(b"x")
        for number in range(MANY):
            assert (point / "many" / f"file-{number:05}").stat().st_size == (number % 7 == 0)
        run("rm", "-rf", point / "many")
        assert set(os.listdir(ext4_folder)) <= {".mirrorfs"}
        log = (tmp_path / "log").read_text()
        assert "ERROR" not in log
        assert "WARNING" not in log
    finally:
        run("umount", "-l", point)


def test_an_unlinked_open_file_lives_until_it_is_closed(mirror: Mirror) -> None:
    fd = os.open(mirror.path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"content")
    os.unlink(mirror.path / "file")
    assert os.pread(fd, 100, 0) == b"content"
    os.pwrite(fd, b"C", 0)
    os.ftruncate(fd, 4)
    assert os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 100, 0) == b"Cont"
    os.close(fd)
    mirror.umount()
    assert os.listdir(mirror.backing) == [".mirrorfs"]


def test_a_change_beside_the_mount_is_seen_at_the_next_look(
    loop_fs: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(loop_fs, "attr_timeout=0")
    mirror.write("file", 0, b"one")
    (mirror.backing / "file").write_bytes(b"three")
    assert mirror.read("file") == b"three"
    os.rename(mirror.backing / "file", mirror.backing / "moved")
    assert os.listdir(mirror.path) == ["moved"]
    assert mirror.read("moved") == b"three"
    (mirror.backing / "moved").unlink()
    (mirror.backing / "moved").mkdir()
    assert (mirror.path / "moved").is_dir()


def test_a_folder_swapped_for_a_link_leads_nowhere(
    loop_fs: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    mirror = mount_mirror(loop_fs, "attr_timeout=3600")
    (mirror.path / "folder").mkdir()
    assert os.listdir(mirror.path / "folder") == []
    os.rmdir(mirror.backing / "folder")
    os.symlink(outside, mirror.backing / "folder")
    with pytest.raises(OSError):
        (mirror.path / "folder/secret").read_text()


def test_descriptors_of_known_files_are_bounded_by_the_limit_of_open_files(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder)
    mirror.umount()
    words = [mirror.backing, mirror.path, "-o", f"log={mirror.log},attr_timeout=0"]
    run("prlimit", "--nofile=64", *MIRRORFS, "mount", *words)
    for number in range(300):
        mirror.write(f"file-{number}", 0, b"x")
        os.stat(mirror.path / f"file-{number}")
    assert len(os.listdir(f"/proc/{mirror.pid}/fd")) < 50
    for number in range(300):
        assert mirror.read(f"file-{number}") == b"x"


def test_the_name_of_the_control_folder_cannot_be_taken_or_removed(mirror: Mirror) -> None:
    control = mirror.path / ".mirrorfs"
    mirror.write("file", 0, b"x")
    (mirror.path / "folder").mkdir()
    taking: list[Callable[[], None]] = [
        lambda: os.mkdir(control),
        lambda: os.rename(mirror.path / "folder", control),
        lambda: os.link(mirror.path / "file", control),
        lambda: os.symlink("x", control),
    ]
    for call in taking:
        with pytest.raises(FileExistsError):
            call()
    removing: list[Callable[[], None]] = [
        lambda: os.rmdir(control),
        lambda: os.rename(control, mirror.path / "other"),
    ]
    for call in removing:
        with pytest.raises(PermissionError):
            call()
    with pytest.raises(IsADirectoryError):
        os.rename(mirror.path / "file", control)
    assert ".mirrorfs" not in os.listdir(mirror.path)
    assert sorted(os.listdir(control)) == [
        "config.json",
        "files.json",
        "history.json",
        "metrics",
        "reset",
        "stats",
        "stats.json",
    ]


def test_the_attribute_with_the_account_of_a_file_is_readable_and_not_listed(
    mirror: Mirror,
) -> None:
    mirror.write("file", 0, b"x" * 5000)
    assert os.listxattr(mirror.path / "file") == []
    assert mirror.account("file").received_bytes == 5000
    with pytest.raises(PermissionError):
        os.setxattr(mirror.path / "file", "user.mirrorfs.stats", b"1")
    os.rename(mirror.path / "file", mirror.path / "other")
    assert mirror.account("other").received_bytes == 5000


def test_trusted_attributes_are_listed_for_root_alone(mirror: Mirror) -> None:
    mirror.write("file", 0, b"x")
    path = mirror.path / "file"
    os.setxattr(path, "trusted.secret", b"1")
    os.setxattr(path, "user.open", b"1")
    assert "trusted.secret" in os.listxattr(path)
    let_others_through(path)
    assert as_user(lambda: os.listxattr(path)) == "['user.open']"


def test_a_control_file_can_be_read_from_anywhere(mirror: Mirror) -> None:
    with (mirror.path / ".mirrorfs/stats").open("rb", buffering=0) as file:
        file.seek(5)
        rest = file.read()
        file.seek(0)
        assert file.read()[5:] == rest


def test_blocks_of_a_file_that_was_deleted_beside_the_mount_are_free_soon(mirror: Mirror) -> None:
    mirror.write("file", 0, os.urandom(8 << 20))
    os.sync()
    free = os.statvfs(mirror.backing).f_bfree
    (mirror.backing / "file").unlink()

    def is_free() -> bool:
        os.sync()
        return os.statvfs(mirror.backing).f_bfree * 4096 > free * 4096 + (7 << 20)

    wait_for(is_free)
    assert not (mirror.path / "file").exists()


def test_a_damaged_file_is_listed_and_refused_as_in_a_plain_folder(
    tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    image = tmp_path / "disk"
    run("truncate", "--size=20M", image)
    run("mkfs.ext4", "-q", image)
    with image_mounted(image, tmp_path / "before") as disk:
        for name in ("bad", "good"):
            (disk / name).touch()
    run("debugfs", "-w", "-R", "clri /bad", image)
    with image_mounted(image, tmp_path / "damaged") as disk:
        mirror = mount_mirror(disk)
        assert sorted(os.listdir(mirror.path)) == sorted(os.listdir(disk))
        assert "bad" in os.listdir(mirror.path)
        for folder in (disk, mirror.path):
            with pytest.raises(OSError, match="needs cleaning"):
                (folder / "bad").stat()
        mirror.umount()


def test_a_folder_can_be_read_from_where_another_handle_stopped(mirror: Mirror) -> None:
    for number in range(50):
        (mirror.path / f"file-{number}").touch()
    libc.telldir.restype = ctypes.c_long
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.opendir.argtypes = [ctypes.c_char_p]
    libc.readdir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    first, second = (libc.opendir(os.fsencode(mirror.path)) for _ in range(2))
    for _ in range(10):
        libc.readdir(first)
    libc.seekdir(second, libc.telldir(first))
    left = 0
    while libc.readdir(second):
        left += 1
    assert left == 42
