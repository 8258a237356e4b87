"""What a write and a copy report of themselves, where a step fails; on a real file of each file
system.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror import copy_range, progress, writer
from mirrorfs.mirror.copy_range import Source
from mirrorfs.mirror.counters import Account
from mirrorfs.mirror.writer import Taken
from tests.mirror.opened import BLOCK, KEY, open_for_clients
from tests.mirror.seeded import NEW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirrorfs.mirror.open_file import OpenFile
    from tests.mirror.seeded import Target

DATA, OTHER = b"\xa5" * BLOCK, b"\x5a" * BLOCK


@pytest.fixture
def file(loop_fs: Path) -> Iterator[OpenFile]:
    path = loop_fs / "image"
    path.write_bytes(DATA * 4)
    made = open_for_clients(path)
    yield made
    os.close(made.fd)


def failing_from(limit: int, real: Callable[..., int]) -> Callable[..., int]:
    """A pwrite for which the disk is full from `limit` on."""

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if offset >= limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: limit - offset], offset)

    return pwrite


def test_a_write_that_succeeds_reports_nothing_but_its_size(file: OpenFile) -> None:
    assert writer.write(file, 0, OTHER) == Taken(BLOCK, None, None)
    assert writer.append(file, OTHER) == (4 * BLOCK, Taken(BLOCK, None, None))


def test_a_write_that_is_stopped_reports_how_far_it_came_and_why(
    file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", failing_from(BLOCK + 100, os.pwrite))
    size, failure, unrecorded = writer.write(file, 0, OTHER * 3)
    assert size == BLOCK + 100
    assert failure is not None
    assert (failure.errno, unrecorded) == (errno.ENOSPC, None)
    counted = file.account.file(KEY)
    assert (counted["received_bytes"], counted["failed_bytes"]) == (size, 3 * BLOCK - size)
    assert os.pread(file.fd, 4 * BLOCK, 0) == (OTHER * 3)[:size] + (DATA * 4)[size:]


def test_a_write_of_which_nothing_was_taken_raises(
    file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", failing_from(0, os.pwrite))
    with pytest.raises(OSError, match="No space"):
        writer.write(file, 0, OTHER)
    with pytest.raises(OSError, match="No space"):
        writer.append(file, OTHER)
    assert file.account.file(KEY)["failed_bytes"] == 2 * BLOCK
    assert os.pread(file.fd, 5 * BLOCK, 0) == DATA * 4


def test_a_sync_that_fails_inside_a_write_is_reported_as_unrecorded(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    target.truncate(0)
    target.write(0, NEW * BLOCK)
    monkeypatch.setattr(progress, "_DURABLE_SECONDS", 0.0)
    monkeypatch.setattr(os, "fdatasync", fail)
    size, failure, unrecorded = writer.write(target.file, BLOCK, NEW * BLOCK)
    assert (size, failure) == (BLOCK, None)
    assert unrecorded is not None
    assert unrecorded.errno == errno.EIO
    assert target.file.writeback.failed
    assert target.file.writeback.unreported_errno == errno.EIO
    assert target.file.stale_tail is None
    assert os.pread(target.file.fd, 3 * BLOCK, 0) == NEW * 2 * BLOCK


def copied(
    file: OpenFile, loop_fs: Path, is_interrupted: Callable[[], bool] = lambda: False
) -> tuple[Taken, OpenFile]:
    """Copy all of a file that shares no blocks to a new one."""
    (loop_fs / "copy").touch()
    made = open_for_clients(loop_fs / "copy", Account())
    source = Source(
        file.fd, KEY, is_seek_trusted=file.is_seek_trusted, writeback_failed=True, lock=None
    )
    return copy_range.copy(source, 0, made, 0, 16 * BLOCK, is_interrupted), made


def test_a_copy_that_succeeds_reports_nothing_but_its_size(file: OpenFile, loop_fs: Path) -> None:
    taken, made = copied(file, loop_fs)
    assert taken == Taken(4 * BLOCK, None, None)
    assert os.pread(made.fd, 5 * BLOCK, 0) == DATA * 4
    os.close(made.fd)


def test_a_copy_that_is_stopped_reports_how_far_it_came_and_why(
    file: OpenFile, loop_fs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", failing_from(2 * BLOCK, os.pwrite))
    (size, failure, unrecorded), made = copied(file, loop_fs)
    assert (size, unrecorded) == (2 * BLOCK, None)
    assert failure is not None
    assert failure.errno == errno.ENOSPC
    assert os.pread(made.fd, 5 * BLOCK, 0) == DATA * 2
    os.close(made.fd)


def test_an_interrupted_copy_is_short_without_a_failure(file: OpenFile, loop_fs: Path) -> None:
    answers = iter([False, True])
    # Of two pieces: data, and the hole that follows.
    os.ftruncate(file.fd, 8 * BLOCK)
    taken, made = copied(file, loop_fs, lambda: next(answers))
    assert taken == Taken(4 * BLOCK, None, None)
    os.close(made.fd)


def test_a_copy_interrupted_before_anything_was_copied_raises(
    file: OpenFile, loop_fs: Path
) -> None:
    with pytest.raises(InterruptedError):
        copied(file, loop_fs, lambda: True)
