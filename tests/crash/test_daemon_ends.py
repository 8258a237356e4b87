"""A daemon that is killed, a disk that is full: nothing that was acknowledged is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import mirrorfs, wait_for
from tests.disks import loop_mounted
from tests.mounted import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror

BLOCK = 4096
# Of the state folder, or of SQLite.
NO_SPACE = (os.strerror(errno.ENOSPC), "database or disk is full")


def test_mount_after_kill_9_holds_every_acknowledged_write(mirror: Mirror) -> None:
    content, acknowledged = bytearray(), []
    chance = random.Random(3)

    def write() -> None:
        fd = os.open(mirror.path / "vm.img", os.O_RDWR | os.O_CREAT)
        try:
            while True:
                piece = chance.choice([bytes(BLOCK), chance.randbytes(5000)])
                offset = len(content)
                content.extend(piece)
                if os.pwrite(fd, piece, offset) == len(piece):
                    acknowledged.append(offset + len(piece))
        except OSError as exc:
            assert exc.errno in {errno.ENOTCONN, errno.ECONNABORTED}
        finally:
            try:
                os.close(fd)
            except OSError:
                pass

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(acknowledged) > 50)
    mirror.kill()
    writer.join()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mirror.path)
    mirror.mount()
    assert len(acknowledged) > 50
    assert mirror.read("vm.img")[: acknowledged[-1]] == content[: acknowledged[-1]]
    mirror.write("vm.img", 0, b"again")


def test_umount_clears_a_dead_mount(mirror: Mirror) -> None:
    mirror.kill()
    done = mirrorfs("umount", mirror.path)
    assert "dead" in done.stderr
    assert not os.path.ismount(mirror.path)


def test_full_disk_is_reported_and_what_is_there_can_be_written(
    tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    with loop_mounted("ext4", tmp_path, 64) as disk:
        backing = disk / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing, noisy=True)
        fd = os.open(mirror.path / "big", os.O_RDWR | os.O_CREAT)
        written, piece = 0, os.urandom(1 << 20)
        with pytest.raises(OSError, match="No space") as caught:
            while True:
                written += os.pwrite(fd, piece, written)
        assert caught.value.errno == errno.ENOSPC
        assert (mirror.backing / "big").stat().st_size == written
        kept = os.pread(fd, 1 << 20, 0)
        assert kept == piece
        # What is there already, and zeros, still go in; and punching makes room for new data.
        assert os.pwrite(fd, piece, 0) == len(piece)
        assert os.pwrite(fd, bytes(4 << 20), 0) == 4 << 20
        assert os.pwrite(fd, piece, 0) == len(piece)
        counters = mirror.stats()["counters"]
        assert counters["received_bytes"] == sum(counters[name] for name in CLASSES)
        assert counters["failed_bytes"] > 0
        assert counters["errors"]["ENOSPC"] >= 1
        with pytest.raises(OSError, match="No space"):
            os.close(fd)
        # The session may find no space for its row either.
        said = [line for line in mirror.troubles() if "sessions are not noted" not in line]
        assert len(said) == 1
        assert "big: could not be written: No space left on device" in said[0]
        mirror.umount()


def fill(folder: Path) -> None:
    """Until there is neither a block left nor an inode."""
    for piece in (1 << 20, BLOCK, 1):
        with (
            pytest.raises(OSError, match="No space"),
            (folder / f"fill-{piece}").open("wb", 0) as f,
        ):
            while True:
                f.write(os.urandom(piece))
    # A long link takes far more of what btrfs has for names than a folder does.
    for make in (lambda path: path.symlink_to("x" * 900), Path.mkdir):
        with pytest.raises(OSError, match="No space"):
            for number in range(1_000_000):
                make(folder / f"{make.__name__}-{number}")


@pytest.mark.parametrize(("kind", "size_mib"), [("ext4", 64), ("xfs", 300), ("btrfs", 160)])
def test_full_disk_is_mounted_and_unchanged_data_still_fits(
    kind: str, size_mib: int, tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """After a restart the backups have to find it, not the empty mount point. That the session
    could not be noted is told, once.
    """
    with loop_mounted(kind, tmp_path, size_mib) as disk:
        backing = disk / "backing"
        backing.mkdir()
        content = os.urandom(1 << 20)
        (backing / "image").write_bytes(content)
        fill(disk)
        mirror = mount_mirror(backing, noisy=True)
        config = json.loads((mirror.path / ".mirrorfs/config.json").read_text())
        assert config["file_system"]["can_punch"]
        with (mirror.path / "image").open("r+b") as file:
            file.write(content)
        assert mirror.read("image") == content
        wait_for(mirror.troubles)
        [line] = mirror.troubles()
        assert line.endswith(NO_SPACE)
        for path in disk.glob("fill-*"):
            path.unlink()
        (mirror.path / "another").write_bytes(content)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_unmounts_cleanly(mirror: Mirror, number: int) -> None:
    mirror.write("vm.img", 0, b"x" * 100_000)
    watch = os.pidfd_open(mirror.pid)
    signal.pidfd_send_signal(watch, number)
    wait_for(lambda: not os.path.ismount(mirror.path))
    assert (mirror.backing / "vm.img").read_bytes() == b"x" * 100_000
    os.close(watch)


def test_signal_lets_a_writer_in_flight_finish(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """Of which the daemon waits for ten seconds at most."""
    mirror = mount_mirror(ext4_folder, noisy=True)
    fd = os.open(mirror.path / "vm.img", os.O_RDWR | os.O_CREAT)
    taken = 0
    os.kill(mirror.pid, signal.SIGTERM)
    try:
        for number in range(1000):
            taken += os.pwrite(fd, b"z" * BLOCK, number * BLOCK)
    except OSError as exc:
        assert exc.errno in {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
    try:
        os.close(fd)
    except OSError:
        pass
    assert (mirror.backing / "vm.img").read_bytes()[:taken] == b"z" * taken


def test_usr1_logs_the_status_and_usr2_the_stacks(mirror: Mirror) -> None:
    pid = mirror.pid
    os.kill(pid, signal.SIGUSR1)
    os.kill(pid, signal.SIGUSR2)
    wait_for(lambda: "inodes known" in mirror.log.read_text())
    wait_for(lambda: "stack of MainThread" in mirror.log.read_text())
    assert mirror.pid == pid
