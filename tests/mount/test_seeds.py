"""Seeds on real mounts: whatever is kept of an old file, clients see and keep what they wrote."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import recovery_attribute
from mirrorfs.backing.recovery_list import RecoveryList
from tests.commands import run, wait_for
from tests.disks import image_mounted, loop_mounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

MIB = 1 << 20


def overwrite(path: Path, data: bytes | bytearray) -> int:
    """Empty a file and write it; the descriptor, still open."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


@pytest.mark.parametrize("how", ["own handle", "after the end", "reading handle"])
def test_a_synced_file_with_a_stale_tail_survives_a_power_cut(
    mount_mirror: Callable[..., Mirror], tmp_path: Path, how: str
) -> None:
    """The device is copied right after fdatasync, as a power cut would leave it."""
    content = bytearray(os.urandom(8 * MIB))
    with loop_mounted("ext4", tmp_path, 64) as point:
        backing = point / "backing"
        backing.mkdir()
        (backing / "image").write_bytes(content)
        os.sync()
        content[MIB : MIB + 10] = b"new content"[:10]
        mirror = mount_mirror(backing)
        path = mirror.path / "image"
        fd = overwrite(path, content)
        if how == "after the end":
            os.close(fd)
            fd = os.open(path, os.O_WRONLY)
        if how == "reading handle":
            other = os.open(path, os.O_RDONLY)
            os.fdatasync(other)
            os.close(other)
        else:
            os.fdatasync(fd)
        shutil.copy(tmp_path / "ext4.img", tmp_path / "after.img")
        os.close(fd)
        mirror.umount()
    with image_mounted(tmp_path / "after.img", tmp_path / "after") as after:
        again = mount_mirror(after / "backing")
        assert again.read("image") == content
        again.umount()


def fill(path: Path) -> None:
    """Leave no block free."""
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 65536, 4096):
            try:
                while True:
                    file.write(os.urandom(size))
            except OSError:
                continue


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_full_disk_does_not_bring_old_bytes_back(
    mount_mirror: Callable[..., Mirror], tmp_path: Path, kind: str
) -> None:
    """The last block is shared with a snapshot, and there is no space to copy it for the cut."""
    old = os.urandom(8 * MIB)
    with loop_mounted(kind, tmp_path, 320) as point:
        backing = point / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing, noisy=True)
        (mirror.path / "image").write_bytes(old)
        run("cp", "--reflink=always", backing / "image", point / "snapshot")
        os.sync()
        fd = overwrite(mirror.path / "image", old[: 2 * MIB + 100])
        fill(point / "fill")
        failed = False
        try:
            os.close(fd)
        except OSError:
            failed = True
        found = mirror.read("image")
        assert len(found) == 2 * MIB + 100
        assert found[: 2 * MIB] == old[: 2 * MIB]
        assert failed or found == old[: 2 * MIB + 100]
        mirror.umount()
        assert (backing / "image").read_bytes() == found
        # A full xfs does not even let the recovery attribute go, and the list says so.
        (point / "fill").unlink()
        mirror.mount()
        assert mirror.read("image") == found
        assert (backing / ".mirrorfs/unsettled").stat().st_size == 0
        assert recovery_attribute.NAME.decode() not in os.listxattr(backing / "image")
        mirror.umount()


def append(mirror: Mirror) -> None:
    with (mirror.path / "log").open("ab", buffering=0) as file:
        for _ in range(16):
            assert file.write(os.urandom(MIB)) == MIB


def write_new(mirror: Mirror) -> None:
    os.close(overwrite(mirror.path / "new", os.urandom(16 * MIB)))


def preallocate(mirror: Mirror) -> None:
    with (mirror.path / "new").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 16 * MIB)


@pytest.mark.parametrize("use", [append, write_new, preallocate])
@pytest.mark.parametrize("kept", ["unlinked", "made anew", "emptied"])
def test_space_kept_for_a_seed_is_there_when_it_is_needed(
    mount_mirror: Callable[..., Mirror], tmp_path: Path, kept: str, use: Callable[[Mirror], None]
) -> None:
    with loop_mounted("xfs", tmp_path, 320) as point:
        backing = point / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing, "preallocate=honour,history=0")  # the disk is full
        path = mirror.path / "image"
        (mirror.path / "log").touch()
        path.write_bytes(os.urandom(32 * MIB))
        os.sync()
        fill(point / "fill")
        fd = -1
        if kept != "emptied":
            path.unlink()
        if kept != "unlinked":
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        use(mirror)
        assert mirror.counters().failed_bytes == 0
        if fd >= 0:
            os.close(fd)
        mirror.umount()


def descriptors_in(pid: int, folder: Path) -> list[str]:
    """Where descriptors of a process lead to in a folder."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return [path for path in found if path.startswith(str(folder))]


def test_a_recently_unlinked_file_keeps_its_device_known(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    """Its device has to stay known until the file is closed, or statfs would wait for ever."""
    with loop_mounted("xfs", tmp_path, 320) as point:
        (ext4_folder / "below").mkdir()
        run("mount", "--bind", point, ext4_folder / "below")
        try:
            mirror = mount_mirror(ext4_folder)
            path = mirror.path / "below/image"
            path.write_bytes(os.urandom(4 * MIB))
            os.sync()
            pid = mirror.pid
            wait_for(lambda: not descriptors_in(pid, ext4_folder / "below"))
            path.unlink()
            Path("/proc/sys/vm/drop_caches").write_text("2")
            time.sleep(2.2)  # longer than descriptors there are kept; less than the file is held
            asking = threading.Thread(target=os.statvfs, args=(mirror.path,), daemon=True)
            asking.start()
            asking.join(60)
            hangs = asking.is_alive()
            if hangs:
                mirror.kill()
            assert not hangs
            mirror.umount()
        finally:
            run("umount", "--lazy", ext4_folder / "below")


def test_a_full_disk_leaves_no_state_folder_without_its_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its marker file the next mount would refuse to hide it."""

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / ".mirrorfs"
    monkeypatch.setattr(os, "fsync", full)
    with (tmp_path / "image").open("wb") as file, pytest.raises(OSError, match="No space"):
        RecoveryList(os.fsencode(folder)).add(file.fileno(), b"image")
    assert not list(tmp_path.glob(".mirrorfs*"))


def test_a_stale_tail_that_a_crash_has_left_is_finalised_by_a_mount_with_another_state_folder(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    old = os.urandom(4 * MIB)
    (ext4_folder / "image").write_bytes(old)
    mirror = mount_mirror(ext4_folder, noisy=True)
    fd = overwrite(mirror.path / "image", old[:MIB])
    mirror.kill()
    with contextlib.suppress(OSError):
        os.close(fd)
    assert (ext4_folder / "image").stat().st_size == len(old)
    mirror.options = f"state={tmp_path / 'state'}"
    mirror.mount()
    assert mirror.read("image") == old[:MIB]
    mirror.umount()
    assert (ext4_folder / "image").stat().st_size == MIB
