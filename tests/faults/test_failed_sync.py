"""Data that does not reach the disk is remembered, whichever handle meets that, and when."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.commands import run

if TYPE_CHECKING:
    from tests.faults.conftest import FaultyMirror

MIB = 1 << 20
DATA = os.urandom(2 * MIB)


def fail_to_sync(faulty: FaultyMirror) -> None:
    """As sync(1) does: by a descriptor for reading."""
    faulty.order(f"fsync {errno.EIO}")
    fd = os.open(faulty.path / "file", os.O_RDONLY)
    with pytest.raises(OSError, match="Input"):
        os.fsync(fd)
    os.close(fd)
    faulty.order()


def rewrite(faulty: FaultyMirror) -> int:
    """Write the same in place; returns how much of it was stored."""
    before = faulty.account("file").written_bytes
    fd = os.open(faulty.path / "file", os.O_WRONLY)
    os.pwrite(fd, DATA, 0)
    os.fsync(fd)
    os.close(fd)
    return int(faulty.account("file").written_bytes) - int(before)


def test_fsync_that_failed_for_a_reader_has_all_written_again(faulty: FaultyMirror) -> None:
    (faulty.path / "file").write_bytes(DATA)
    assert rewrite(faulty) == 0
    fail_to_sync(faulty)
    assert rewrite(faulty) == len(DATA)
    assert rewrite(faulty) == 0
    assert any("file: could not be written: Input" in line for line in faulty.troubles())


def test_fsync_that_failed_for_a_reader_is_reported_to_the_writer(faulty: FaultyMirror) -> None:
    fd = os.open(faulty.path / "file", os.O_WRONLY | os.O_CREAT)
    os.pwrite(fd, DATA, 0)
    fail_to_sync(faulty)
    with pytest.raises(OSError, match="Input"):
        os.fsync(fd)
    os.pwrite(fd, DATA, 0)
    os.fsync(fd)
    os.close(fd)
    assert faulty.account("file").written_bytes == 2 * len(DATA)


def test_stale_tail_that_cannot_be_finalised_at_the_end_is_in_the_log(faulty: FaultyMirror) -> None:
    (faulty.backing / "file").write_bytes(DATA)
    fd = os.open(faulty.path / "file", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, os.urandom(50_000))
    faulty.order(f"fsync {errno.EIO}")
    faulty.daemon.send_signal(signal.SIGTERM)
    faulty.daemon.wait(30)
    with pytest.raises(OSError):
        os.close(fd)
    assert "file: could not be written at the end: Input/output error" in faulty.log.read_text()


def test_stale_tail_that_cannot_be_finalised_at_close_is_remembered(faulty: FaultyMirror) -> None:
    (faulty.backing / "file").write_bytes(DATA)
    fd = os.open(faulty.path / "file", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, DATA[: MIB + 5])
    os.write(fd, os.urandom(MIB - 5))
    faulty.order(f"fsync {errno.EIO}")
    with pytest.raises(OSError, match="Input"):
        os.close(fd)
    faulty.order()
    assert rewrite(faulty) == len(DATA)
    assert run("cmp", faulty.path / "file", faulty.backing / "file").returncode == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_sync_that_fails_inside_a_write_is_reported_and_remembered(
    faulty: FaultyMirror, code: int
) -> None:
    """The first change of a file that was emptied has its recovery attribute put on the disk, and
    what was written before with it. Where space is short, the write itself succeeds at the second
    attempt.
    """
    (faulty.path / "file").write_bytes(DATA)
    fd = os.open(faulty.path / "file", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, DATA[:MIB])
    faulty.order(f"fsync {code}")
    failed = False
    try:
        os.write(fd, os.urandom(MIB))
    except OSError as exc:
        failed = True
        assert exc.errno == code
    faulty.order()
    with pytest.raises(OSError, match=os.strerror(code)):
        os.fsync(fd)
    with contextlib.suppress(OSError):  # reported once more
        os.close(fd)
    assert failed or code == errno.ENOSPC
    assert rewrite(faulty) == len(DATA)
    assert rewrite(faulty) == 0
