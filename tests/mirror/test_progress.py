"""What a crash finds of a file with a stale tail, on a real file of each file system: recovery
attribute and progress table follow what clients see, and what is durable.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import progress_table, recovery_attribute
from mirrorfs.backing.recovery_list import read_list
from mirrorfs.mirror import progress, stale_tail, sync
from tests.mirror.seeded import BLOCK, MIB, NEW, OLD

if TYPE_CHECKING:
    from tests.mirror.seeded import Target


def test_the_recovery_attribute_follows_what_clients_see(target: Target) -> None:
    target.truncate(5000)
    (entry,) = read_list(target.state_fd)
    assert entry.ino == os.fstat(target.file.fd).st_ino
    seen = [(5000, 5000, 5000)]
    target.write(5000, OLD * 3000)
    seen.append((5000, 8000, 8000))
    target.truncate(MIB)
    seen.append((5000, 8000, MIB))
    target.write(100_000, NEW * 3000)
    seen.append((5000, 103_000, MIB))
    target.truncate(4000)
    seen.append((4000, 4000, 4000))
    target.write(0, NEW * 1000)
    seen.append((4000, 4000, 4000))
    found = target.recorded
    assert (found.durable, found.valid_length, found.size) == seen[-1]
    assert target.finalise() == NEW * 1000 + OLD * 3000


def test_an_attribute_that_says_too_much_is_on_the_disk_again_before_anything_is_changed(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[recovery_attribute.RecoveryAttribute] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        if fd == target.file.fd:
            synced.append(target.recorded)

    target.truncate(MIB)
    monkeypatch.setattr(os, "fsync", note)
    target.write(MIB, NEW * BLOCK)
    target.write(MIB + BLOCK, NEW * BLOCK)
    target.truncate(0)
    target.write(0, OLD * BLOCK)
    target.write(BLOCK, NEW * BLOCK)
    assert [found.durable for found in synced] == [MIB, 0]


@pytest.mark.parametrize("data", [OLD, NEW], ids=["equal", "new"])
def test_what_was_written_half_a_minute_ago_is_made_durable(
    target: Target, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.truncate(0)
    target.write(0, data * 5000)
    assert target.recorded.durable == 0
    monkeypatch.setattr(progress, "_DURABLE_SECONDS", 0.0)
    target.write(5000, data * 5000)
    assert target.recorded.durable == 10_000


def test_a_sync_of_a_file_opened_again_leaves_its_stale_tail(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_tail, "_WORTH_WAITING_BYTES", MIB)
    target.truncate(0)
    tail = target.file.stale_tail
    assert tail is not None
    tail.resumed = True
    target.write(0, OLD * 5000)
    assert not tail.is_recorded
    sync.sync(target.file, True)
    assert target.file.stale_tail is tail
    assert tail.is_recorded
    assert (target.recorded.durable, target.recorded.size) == (5000, 5000)
    target.write(5000, OLD * MIB)  # a header no longer
    sync.sync(target.file, True)
    assert target.file.stale_tail is None
    assert os.pread(target.file.fd, 2 * MIB, 0) == OLD * (MIB + 5000)


def test_without_a_progress_table_the_attribute_itself_follows(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_table.ProgressTable, "take", lambda *_: -1)
    target.truncate(0)
    target.write(0, OLD * 5000)
    found = recovery_attribute.read(target.file.fd)
    assert found is not None
    assert (found.table, found.valid_length, found.size) == (progress_table.NONE, 5000, 5000)
    assert not target.take(5000, OLD * 1000)
    assert target.finalise() == OLD * 5000


def test_an_attribute_is_renewed_before_a_change_that_comes_later(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is changed then would be taken for another program's doing after a power cut."""
    target.truncate(0)
    before = recovery_attribute.read(target.file.fd)
    assert before is not None
    assert before.mtime is not None
    later = time.time() + recovery_attribute.FRESH_SECONDS + 100
    monkeypatch.setattr(time, "time", lambda: later)
    os.utime(target.file.fd, (before.mtime - 50, before.mtime - 50))
    target.write(0, NEW * BLOCK)
    after = recovery_attribute.read(target.file.fd)
    assert after is not None
    assert after.mtime is not None
    age = int(os.fstat(target.file.fd).st_mtime) - after.mtime
    assert 0 <= age <= recovery_attribute.FRESH_SECONDS
    assert after.mtime >= before.mtime
