"""File handles of what is in the mount, as an NFS server keeps them: name_to_handle_at(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.disks import loop_mounted
from tests.mount.forgetting import forget_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
REUSES = 20  # files made at once, in one of which a number is used again


def handle_of(path: Path) -> bytes:
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    if libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(ctypes.c_int()), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return buffer.raw


def open_handle(top: Path, handle: bytes) -> int:
    folder = os.open(top, os.O_RDONLY)
    fd = libc.open_by_handle_at(folder, handle, os.O_RDONLY)
    code = ctypes.get_errno()
    os.close(folder)
    if fd < 0:
        raise OSError(code, os.strerror(code))
    return int(fd)


def found(top: Path, handle: bytes) -> str:
    """Content of a file, path and names of a folder, or the name of an errno."""
    try:
        fd = open_handle(top, handle)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    try:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            path = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), top)
            return f"{path}: {sorted(os.listdir(fd))}"
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def reused(folder: Path) -> list[str]:
    """What is found by handles of files that are deleted at once, when others have taken their
    numbers.
    """
    answers = []
    for _ in range(5):
        (folder / "old").write_text("old")
        handle = handle_of(folder / "old")
        (folder / "old").unlink()
        for number in range(REUSES):
            (folder / f"new-{number}").write_text("another")
        answers.append(found(folder, handle))
        for number in range(REUSES):
            (folder / f"new-{number}").unlink()
    return answers


def test_a_handle_of_a_deleted_file_opens_no_other(mirror: Mirror) -> None:
    plain = mirror.backing.parent / f"{mirror.backing.name}-plain"
    plain.mkdir()
    assert reused(mirror.path) == reused(plain) == ["ESTALE"] * 5


@pytest.mark.parametrize("is_extended", [True, False])
def test_a_handle_opens_no_other_file_where_files_have_no_time_of_birth(
    mount_mirror: Callable[..., Mirror], tmp_path: Path, no_extension: str, is_extended: bool
) -> None:
    image, point = tmp_path / "image", tmp_path / "old"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-F", "-I", "128", image)
    point.mkdir()
    run("mount", "-o", "loop", image, point)
    try:
        mirror = mount_mirror(point, **{} if is_extended else {"PYTHONPATH": no_extension})
        assert reused(mirror.path) == ["ESTALE"] * 5
        mirror.write("file", 0, b"old")
        handle = handle_of(mirror.path / "file")
        forget_all(mirror)
        (point / "file").unlink()
        for number in range(REUSES):
            (point / f"new-{number}").write_text("another")
        assert found(mirror.path, handle) == "ESTALE"
        mirror.umount()
    finally:
        run("umount", "--lazy", point)


NAMES = ("", "a", "a/b", "a/b/file", "link", "file")


def fill(folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_text("deep")
    (folder / "file").write_text("content")
    (folder / "link").symlink_to("file")


def all_found(top: Path, handles: dict[str, bytes]) -> dict[str, str]:
    return {name: found(top, handle) for name, handle in handles.items()}


def test_handles_stay_good_whatever_the_kernel_forgets(mirror: Mirror) -> None:
    """Also over a remount."""
    check_that_handles_stay_good(mirror)


def test_handles_stay_good_without_the_extension(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], no_extension: str
) -> None:
    check_that_handles_stay_good(mount_mirror(ext4_folder, PYTHONPATH=no_extension))


def check_that_handles_stay_good(mirror: Mirror) -> None:
    below = mirror.backing
    fill(below)
    handles = {name: handle_of(mirror.path / name) for name in NAMES}
    wanted = all_found(below, {name: handle_of(below / name) for name in NAMES})
    assert wanted["a/b/file"] == "deep"
    assert wanted["a/b"] == "a/b: ['file']"
    assert wanted["link"] == "ELOOP"
    assert all_found(mirror.path, handles) == wanted
    for name in reversed(NAMES):
        forget_all(mirror)
        assert found(mirror.path, handles[name]) == wanted[name]
    mirror.umount()
    mirror.mount()
    for name in reversed(NAMES):
        assert found(mirror.path, handles[name]) == wanted[name]


def test_a_file_found_by_its_handle_can_be_written(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder)
    (mirror.path / "folder").mkdir()
    mirror.write("folder/file", 0, b"x" * 8192)
    handle = handle_of(mirror.path / "folder/file")
    forget_all(mirror)
    reader = open_handle(mirror.path, handle)
    writer = os.open(f"/proc/self/fd/{reader}", os.O_RDWR)
    os.close(reader)
    os.pwrite(writer, bytes(4096), 0)
    os.fsync(writer)
    assert mirror.holes("folder/file") == [(0, 4096)]
    assert "file" in (mirror.path / ".mirrorfs/files.json").read_text()
    os.close(writer)
    assert mirror.read("folder/file") == bytes(4096) + b"x" * 4096


def test_a_handle_goes_where_its_file_goes_beside_the_mount(mirror: Mirror) -> None:
    fill(mirror.backing)
    handles = {name: handle_of(mirror.path / name) for name in ("a/b", "a/b/file")}
    forget_all(mirror)
    os.rename(mirror.backing / "a/b", mirror.backing / "moved")
    assert all_found(mirror.path, handles) == {"a/b": "moved: ['file']", "a/b/file": "deep"}
    forget_all(mirror)
    os.rename(mirror.backing / "moved", f"{mirror.backing}-out")
    assert found(mirror.path, handles["a/b"]) == "ESTALE"
    forget_all(mirror)
    os.unlink(f"{mirror.backing}-out/file")
    assert found(mirror.path, handles["a/b/file"]) == "ESTALE"


def test_a_handle_with_another_generation_or_number_is_refused(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder)
    mirror.write("file", 0, b"content")
    handle = handle_of(mirror.path / "file")
    for where in (8 + 4, 8 + 8):  # of the number, whose upper half comes first; of the generation
        for changed in (1, 0x40):
            forged = bytearray(handle)
            forged[where] ^= changed
            forget_all(mirror)
            assert found(mirror.path, bytes(forged)) == "ESTALE"
    assert found(mirror.path, handle) == "content"


def test_control_files_have_handles(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> None:
    mirror = mount_mirror(ext4_folder)
    handle = handle_of(mirror.path / ".mirrorfs/config.json")
    forget_all(mirror)
    assert found(mirror.path, handle).startswith("{")


@pytest.fixture(params=["subvolume", "tmpfs"])
def remembered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A backing folder, and a name in it of what cannot be found by its number."""
    if request.param == "subvolume":
        with loop_mounted("btrfs", tmp_path, 256) as folder:
            run("btrfs", "subvolume", "create", folder / "inner")
            yield folder, "inner/"
        return
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "none", folder)
    yield folder, ""
    run("umount", "--lazy", folder)


def test_handles_of_inodes_without_numbers_of_their_own_stay_good_while_the_mount_lives(
    remembered: tuple[Path, str], mount_mirror: Callable[..., Mirror]
) -> None:
    folder, inner = remembered
    fill(folder / inner)
    mirror = mount_mirror(folder)
    names = [f"{inner}{name}" for name in ("a", "a/b", "a/b/file", "file")]
    handles = {name: handle_of(mirror.path / name) for name in names}
    wanted = all_found(mirror.path, handles)
    assert wanted[f"{inner}a/b/file"] == "deep"
    for name in reversed(names):
        forget_all(mirror)
        assert found(mirror.path, handles[name]) == wanted[name]
    forget_all(mirror)
    os.rename(folder / inner / "file", folder / inner / "other")
    (folder / inner / "file").write_text("another")
    assert found(mirror.path, handles[f"{inner}file"]) == "ESTALE"
