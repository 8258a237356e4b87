"""A failed sync between two writes is reported by the next fsync or close."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table
from mirrorfs.backing.recovery_list import RecoveryList
from mirrorfs.fs.handles import PendingError
from mirrorfs.mirror import progress
from mirrorfs.mirror.truncate import truncate
from mirrorfs.mirror.writer import write
from tests.mirror.opened import open_for_clients

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MIB = 1 << 20


def test_a_sync_that_fails_between_writes_is_reported_at_the_end(
    ext4_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system reports it once; the next write in sequence does not make it good."""
    path = ext4_folder / "image"
    old = os.urandom(4 * MIB)
    path.write_bytes(old)
    file = open_for_clients(path)
    state = os.fsencode(tmp_path / "state")
    file.recovery_list = RecoveryList(state)
    pending = PendingError()
    failures = [errno.EIO]
    real = os.fdatasync

    def fail_once(fd: int) -> None:
        if failures:
            raise OSError(failures.pop(), "injected")
        real(fd)

    truncate(file, 0, seeds=True)
    monkeypatch.setattr(progress, "_DURABLE_SECONDS", 0.0)
    monkeypatch.setattr(os, "fdatasync", fail_once)
    for offset in range(0, MIB, 4096):
        pending.note_taken(offset, write(file, offset, b"new!" * 1024))
    assert not failures
    assert pending.code == errno.EIO
    assert file.writeback.failed
    assert file.writeback.unreported_errno == errno.EIO
    assert path.read_bytes() == b"new!" * (MIB // 4)
    progress_table.remove_all(progress_table.owner_of(state))
    os.close(file.fd)
