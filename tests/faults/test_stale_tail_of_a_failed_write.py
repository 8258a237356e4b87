"""Writes that fail while a file has a stale tail: what was acknowledged stays, and no old block
shows.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import mirrorfs, run, wait_for
from tests.mounted import CLASSES

if TYPE_CHECKING:
    from tests.faults.conftest import FaultyMirror

MIB = 1 << 20
OLD, NEW = b"\xa5", b"\x5a"


def fail_to_write(faulty: FaultyMirror, fd: int, offset: int) -> None:
    faulty.order(f"pwrite 100 {errno.EIO}")
    with pytest.raises(OSError) as caught:
        os.pwrite(fd, NEW * 9000, offset)
    assert caught.value.errno == errno.EIO
    faulty.order()


def emptied(faulty: FaultyMirror) -> int:
    (faulty.backing / "file").write_bytes(OLD * 2 * MIB)
    return os.open(faulty.path / "file", os.O_RDWR | os.O_TRUNC)


def close(fd: int) -> None:
    with pytest.raises(OSError):  # the failed write, or the dead mount
        os.close(fd)


@pytest.mark.parametrize("grown", [0, 2 * MIB])
def test_write_after_a_failed_one_survives_a_crash(faulty: FaultyMirror, grown: int) -> None:
    fd = emptied(faulty)
    os.ftruncate(fd, grown)
    fail_to_write(faulty, fd, MIB)
    content = NEW * 5000
    assert os.pwrite(fd, content, 0) == 5000
    content = content.ljust(grown, b"\0")
    assert os.pread(fd, 3 * MIB, 0) == content
    faulty.daemon.kill()
    faulty.daemon.wait()
    close(fd)
    run("umount", "--lazy", faulty.path)
    mirrorfs("mount", faulty.backing, faulty.path)
    assert faulty.read("file") == (faulty.backing / "file").read_bytes() == content


@pytest.mark.parametrize("grown", [0, 2 * MIB])
def test_failed_write_shows_no_stale_tail(faulty: FaultyMirror, grown: int) -> None:
    fd = emptied(faulty)
    os.ftruncate(fd, grown)
    assert os.pwrite(fd, NEW * 5000, 0) == 5000
    fail_to_write(faulty, fd, 200_000)
    content = (NEW * 5000).ljust(grown, b"\0")
    assert os.pread(fd, 3 * MIB, 0) == content
    os.ftruncate(fd, 2 * MIB)
    content = content.ljust(2 * MIB, b"\0")
    assert os.pread(fd, 3 * MIB, 0) == content
    close(fd)
    assert faulty.read("file") == (faulty.backing / "file").read_bytes() == content
    counted = vars(faulty.counters())
    assert counted["received_bytes"] == sum(counted[kind] for kind in CLASSES)


def test_failed_sync_leaves_no_stale_tail(faulty: FaultyMirror) -> None:
    fd = emptied(faulty)
    assert os.pwrite(fd, NEW * 5000, 0) == 5000
    faulty.order(f"fsync {errno.EIO}")
    with pytest.raises(OSError):
        os.fsync(fd)
    faulty.order()
    assert os.pread(fd, 3 * MIB, 0) == NEW * 5000
    assert (faulty.backing / "file").read_bytes() == NEW * 5000
    assert os.pwrite(fd, NEW * 5000, 0) == 5000
    os.fsync(fd)
    os.close(fd)
    assert faulty.read("file") == NEW * 5000


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_file_that_cannot_be_cut_keeps_its_recovery_attribute(
    faulty: FaultyMirror, code: int
) -> None:
    """Clients see it as it should be, its last writer gets an error; the next mount tries again."""
    fd = emptied(faulty)
    assert os.pwrite(fd, NEW * 5000, 0) == 5000
    faulty.order(f"cut {code}")
    with pytest.raises(OSError) as caught:
        os.close(fd)
    assert caught.value.errno == code
    assert faulty.read("file") == NEW * 5000
    time.sleep(0.2)
    assert "Traceback" not in faulty.log.read_text()
    faulty.daemon.kill()
    faulty.daemon.wait()
    run("umount", "--lazy", faulty.path)
    mirrorfs("mount", faulty.backing, faulty.path)
    assert faulty.read("file") == (faulty.backing / "file").read_bytes() == NEW * 5000


@pytest.mark.parametrize("again", [False, True])
def test_file_that_could_not_be_cut_is_cut_later(faulty: FaultyMirror, again: bool) -> None:
    """By itself, or when it is written again."""
    content = NEW * 5000
    fd = emptied(faulty)
    assert os.pwrite(fd, content, 0) == 5000
    faulty.order(f"cut {errno.EIO}")
    with pytest.raises(OSError):
        os.close(fd)
    time.sleep(0.2)
    faulty.order()
    if again:
        fd = os.open(faulty.path / "file", os.O_RDWR)
        assert os.pwrite(fd, content, 5000) == 5000
        os.fsync(fd)
        os.close(fd)
        content += content
    else:
        wait_for(lambda: (faulty.backing / "file").stat().st_size == len(content))
    assert faulty.read("file") == (faulty.backing / "file").read_bytes() == content
    assert "Traceback" not in faulty.log.read_text()


def test_file_that_fails_after_its_close_is_logged_and_believed_no_longer(
    faulty: FaultyMirror,
) -> None:
    """No client has it open any more to which the error could be reported."""
    content = NEW * 8 * MIB
    path = faulty.path / "file"
    path.write_bytes(content)
    path.write_bytes(OLD * 5000)
    faulty.order(f"fsync {errno.EIO}")
    wait_for(lambda: "could not be written" in faulty.log.read_text())
    faulty.order()
    said = f"WARNING {faulty.path}: file: could not be written: {os.strerror(errno.EIO)}"
    assert said in faulty.log.read_text()
    assert faulty.read("file") == OLD * 5000
    with path.open("r+b", buffering=0) as file:
        before = faulty.counters().written_bytes
        file.write(OLD * 5000)
        assert faulty.counters().written_bytes == before + 5000
