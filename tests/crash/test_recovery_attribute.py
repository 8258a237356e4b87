"""What a crash has left is known by its recovery attribute, with or without the recovery list, and
when the attribute is much older than the last change of the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import progress_table, recovery_attribute, state_folder
from mirrorfs.backing.recovery_list import RecoveryList, read_list
from tests.commands import is_in_a_call, run, wait_for
from tests.crash.test_changed_after_a_crash import leave, leave_on_another_list
from tests.crash.test_stale_tail_after_a_kill import ATTRIBUTE, LIST, kill, make, remount_and_check
from tests.crash.test_stale_tail_after_a_power_cut import cut_power
from tests.disks import loop_mounted
from tests.model.test_seed_model import BLOCK, MIB, is_list_empty
from tests.mount.test_devices import mounted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10  # ioctl_iflags(2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """One bit of the first number."""
    text = bytearray(path.read_bytes())
    text[2] ^= 1
    path.write_bytes(text)


def scribble(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


@pytest.mark.parametrize("damage", [empty, os.unlink, flip, scribble], ids=lambda it: it.__name__)
def test_damaged_recovery_list_lets_no_stale_tail_show(
    ext4_mirror: Mirror, damage: Callable[[Path], None]
) -> None:
    made = leave(ext4_mirror)
    kill(ext4_mirror, [made])
    damage(made.backing.parent / LIST)
    ext4_mirror.mount()
    # What was not synced may be gone with the number on the list, by which it is found.
    found = ext4_mirror.read("file")
    assert made.file.content.startswith(found)
    assert made.backing.read_bytes() == found
    assert ATTRIBUTE not in os.listxattr(made.backing)


def test_stale_tail_on_a_disk_that_comes_late_is_finalised(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    """As at a boot at which a disk below the backing folder comes late."""
    nested = ext4_folder / "nested"
    with loop_mounted("ext4", tmp_path, 64) as disk:
        with mounted(nested, "--bind", disk):
            mirror = mount_mirror(ext4_folder)
            made = make(mirror, "nested/file")
            made.reopen(empty=True)
            made.next(0, 50_000, "new", 7)
            kill(mirror, [made])
        mirror.mount()
        with mounted(nested, "--bind", disk):
            found = mirror.read("nested/file")
            assert made.file.content.startswith(found)
            assert (nested / "file").read_bytes() == found
            mirror.umount()


def test_new_times_are_given_to_a_file_that_was_finalised_first(
    ext4_mirror: Mirror, tmp_path: Path
) -> None:
    """`rsync -t --size-only`, by a mount that has another list."""
    (made,) = leave_on_another_list(ext4_mirror, tmp_path, "file")
    ext4_mirror.mount()
    os.utime(ext4_mirror.path / "file", (1e9, 1e9))
    assert ext4_mirror.read("file") == made.backing.read_bytes() == made.file.content
    assert not ext4_mirror.troubles()
    progress_table.remove_all(progress_table.owner_of(os.fsencode(tmp_path / "state")))


def open_to_write(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY))


def open_to_append(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def grow(path: Path) -> None:
    """truncate(2) by name, one byte longer than the file may seem."""
    os.truncate(path, 16 * MIB + 1)
    os.truncate(path, 16 * MIB)


@pytest.mark.parametrize("use", [open_to_write, open_to_append, grow], ids=lambda it: it.__name__)
def test_first_use_for_writing_finalises_a_file_that_no_list_names(
    ext4_mirror: Mirror, tmp_path: Path, use: Callable[[Path], None]
) -> None:
    """By a mount that has another list, and so does not look for the file."""
    (made,) = leave_on_another_list(ext4_mirror, tmp_path, "file")
    ext4_mirror.mount()
    use(ext4_mirror.path / "file")
    content = made.file.content
    if use is grow:
        content = content.ljust(16 * MIB, b"\0")
    assert ext4_mirror.read("file") == content
    assert made.backing.read_bytes() == content
    assert ATTRIBUTE not in os.listxattr(made.backing)
    progress_table.remove_all(progress_table.owner_of(os.fsencode(tmp_path / "state")))


def write_what_is_there(mirror: Mirror, path: Path) -> None:
    """Empties a file and changes its first block; then, for longer than its
    recovery attribute is fresh, writes what is there already.
    """
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, os.urandom(BLOCK))
    place, end = BLOCK, time.monotonic() + recovery_attribute.FRESH_SECONDS + 4
    with (mirror.backing / path.name).open("rb") as old:
        while time.monotonic() < end:
            place += os.pwrite(fd, os.pread(old.fileno(), 2 * BLOCK, place), place)
            time.sleep(0.1)


@pytest.mark.slow
def test_long_write_of_equal_data_is_not_taken_for_a_change_by_others(ext4_mirror: Mirror) -> None:
    """The writer moves nothing but the times."""
    made = make(ext4_mirror, "file", 3 * MIB)
    made.close_all()
    write_what_is_there(ext4_mirror, made.path)
    ext4_mirror.kill()
    assert cut_power(made.backing).durable == 0
    ext4_mirror.mount()
    assert made.backing.stat().st_size == ext4_mirror.path.joinpath("file").stat().st_size == 0
    assert not ext4_mirror.troubles()


@pytest.mark.parametrize("is_bound", [False, True], ids=["beside", "by a bind mount"])
def test_file_that_another_mount_is_writing_is_left_alone(
    ext4_mirror: Mirror, mount_mirror: Callable[..., Mirror], tmp_path: Path, is_bound: bool
) -> None:
    """One file with names in two backing folders, as `cp -al` makes them."""
    beside = ext4_mirror.backing.with_name(ext4_mirror.backing.name + "-twin")
    beside.mkdir()
    binding = mounted(tmp_path / "bound", "--bind", beside)
    with binding if is_bound else contextlib.nullcontext(beside) as place:
        twin = mount_mirror(place, noisy=True)
        made = leave(ext4_mirror)
        os.link(made.backing, beside / "file")
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                twin.read("file")
        (line,) = twin.troubles()
        assert "file: what a crash has left of it cannot be finalised: another mount" in line
        made.next(0, 50_000, "new", 8)
        made.close_all()
        assert twin.read("file") == ext4_mirror.read("file") == made.file.content
        twin.umount()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_daemon_killed_while_its_disk_is_frozen_loses_no_acknowledged_write(
    tmp_path: Path, mount_mirror: Callable[..., Mirror], kind: str
) -> None:
    """The write that waits moves the time of the file at the thaw, long after it has begun."""
    with loop_mounted(kind, tmp_path, 400) as disk:
        backing = disk / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing)
        made = leave(mirror)
        words = [sys.executable, "-c", f"import os; os.write({made.fd}, b'n' * 65536)"]
        point_fd = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(point_fd, FIFREEZE, 0)
        try:
            os.lseek(made.fd, 0, os.SEEK_END)
            writer = subprocess.Popen(words, pass_fds=[made.fd], stderr=subprocess.DEVNULL)
            wait_for(lambda: is_in_a_call(writer.pid, made.fd))
            time.sleep(1)  # until the daemon has seen that it waits
            os.kill(mirror.pid, signal.SIGKILL)
        finally:
            time.sleep(1)
            fcntl.ioctl(point_fd, FITHAW, 0)
            os.close(point_fd)
        mirror.is_killed = True
        writer.wait(60)
        with contextlib.suppress(OSError):
            made.close_all()
        run("umount", "--lazy", mirror.path)
        wait_for(lambda: not mirror.path.is_mount())
        mirror.mount()
        found = mirror.read("file")
        assert found[: len(made.file.content)] == made.file.content
        assert set(found[len(made.file.content) :]) <= set(b"n")
        assert is_list_empty(mirror)
        mirror.umount()


def make_immutable(path: Path) -> None:
    """Not by chattr(1): at its start copies of our descriptors are closed, and files finalised."""
    fd = os.open(path, os.O_RDONLY)
    (flags,) = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags | FS_IMMUTABLE_FL))
    os.close(fd)


def test_recovery_attribute_of_a_finalised_file_cuts_nothing(ext4_mirror: Mirror) -> None:
    """The file was made immutable while all of it was written again."""
    made = make(ext4_mirror, "file")
    size = made.backing.stat().st_size
    made.reopen(empty=True)
    made.next(0, size, "old", 1)
    make_immutable(made.backing)
    try:
        os.close(made.fds.pop())
        assert ATTRIBUTE in os.listxattr(made.backing)
        assert ext4_mirror.read("file") == made.file.content
        ext4_mirror.umount()
        ext4_mirror.mount()
        assert ext4_mirror.read("file") == made.file.content
    finally:
        run("chattr", "-i", made.backing)
    ext4_mirror.umount()
    remount_and_check(ext4_mirror, [made])
    assert not ext4_mirror.troubles()


def test_entry_of_the_recovery_list_is_for_a_file_on_one_device(tmp_path: Path) -> None:
    """A disk that comes late may bring an attribute with an equal number, and inode number."""
    listed = RecoveryList(os.fsencode(tmp_path / "state"))
    with (tmp_path / "image").open("wb") as file:
        number, status = listed.add(file.fileno(), b"image"), os.fstat(file.fileno())
    assert listed.is_live(number, status.st_dev, status.st_ino)
    assert not listed.is_live(number, status.st_dev + 1, status.st_ino)
    assert not listed.is_finalised(number, status.st_dev, status.st_ino)
    listed.keep_finalised(number)
    assert not listed.is_live(number, status.st_dev, status.st_ino)
    assert listed.is_finalised(number, status.st_dev, status.st_ino)
    assert not listed.is_finalised(number, status.st_dev + 1, status.st_ino)
    listed.close()
    folder_fd = state_folder.open_folder(os.open(tmp_path, os.O_RDONLY), b"state")
    (entry,) = read_list(folder_fd)
    assert entry.is_finalised
    assert entry.is_of(status.st_dev, status.st_ino)
