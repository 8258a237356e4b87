"""A tail at work on a real file: what is below, and what the mark says; without a mount."""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing import commits, holes, progress_table, recovery_attribute
from mirrorfs.backing.recovery_list import read_list
from mirrorfs.mirror import progress, seeding, sync, unchanged_fast_path, writer
from mirrorfs.mirror import stale_tail as tail_module
from mirrorfs.mirror.unchanged_fast_path import Elided
from tests.mirror.opened import open_mirrored
from tests.mirror.seeded import BLOCK, MIB, NEW, OLD, Target, opened_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def target(loop_fs: Path) -> Iterator[Target]:
    with opened_target(loop_fs) as made:
        yield made


def test_the_mark_follows_what_clients_see(target: Target) -> None:
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
    found = target.mark
    assert (found.durable, found.valid_length, found.size) == seen[-1]
    assert target.settle() == NEW * 1000 + OLD * 3000


def test_a_mark_that_says_too_much_is_on_the_disk_again_before_anything_is_changed(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[recovery_attribute.RecoveryAttribute] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        if fd == target.file.fd:
            synced.append(target.mark)

    target.truncate(MIB)
    monkeypatch.setattr(os, "fsync", note)
    target.write(MIB, NEW * BLOCK)
    target.write(MIB + BLOCK, NEW * BLOCK)
    target.truncate(0)
    target.write(0, OLD * BLOCK)
    target.write(BLOCK, NEW * BLOCK)
    assert [found.durable for found in synced] == [MIB, 0]


def test_old_blocks_are_left_below_until_they_are_cut_off(target: Target) -> None:
    target.truncate(0)
    target.write(0, OLD * BLOCK + NEW * BLOCK)
    assert os.fstat(target.file.fd).st_size == 2 * MIB
    assert target.account.file((0, 0, 0))["unchanged_bytes"] == BLOCK
    assert target.settle() == OLD * BLOCK + NEW * BLOCK


@pytest.mark.parametrize("data", [OLD, NEW], ids=["equal", "new"])
def test_what_was_written_half_a_minute_ago_is_durable(
    target: Target, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.truncate(0)
    target.write(0, data * 5000)
    assert target.mark.durable == 0
    monkeypatch.setattr(progress, "_DURABLE_SECONDS", 0.0)
    target.write(5000, data * 5000)
    assert target.mark.durable == 10_000


@pytest.mark.parametrize("size", [2 * MIB, MIB], ids=["whole", "cut"])
def test_a_clone_is_on_the_disk_and_cut_before_its_mark_goes(
    target: Target, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Committed as a whole where that is possible, if it is large."""
    if not target.file.abilities.clone:
        assert target.file.abilities.file_system == "ext4"
        return
    done: list[str] = []
    for owner, name in (
        (os, "fdatasync"),
        (os, "fsync"),
        (commits, "commit"),
        (seeding, "cut"),
        (recovery_attribute, "remove"),
    ):
        monkeypatch.setattr(owner, name, noted(getattr(owner, name), done))
    monkeypatch.setattr(commits, "WORTH_BYTES", MIB)
    path = target.folder / "new"
    path.touch()
    made = open_mirrored(path)
    made.unsettled, made.seed_fd = target.file.unsettled, os.dup(target.file.fd)
    writer.write(made, target.pending, 0, NEW * BLOCK, target.account)
    writer.write(made, target.pending, BLOCK, OLD * (size - BLOCK), target.account)
    done.clear()
    sync.settle(made, target.account)
    os.close(made.fd)
    assert path.read_bytes() == NEW * BLOCK + OLD * (size - BLOCK)
    cuts = ["cut"] if size == MIB else []
    if made.abilities.file_system == "btrfs":
        assert done == [*cuts, "commit", "remove"]
    else:
        assert done == ["fdatasync", *cuts, "remove"]


def noted(function: Callable[..., object], done: list[str]) -> Callable[..., object]:
    def call(*args: object) -> object:
        done.append(function.__name__)
        return function(*args)

    return call


def test_a_gap_is_zeros_also_where_seek_data_errs(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenZFS before 2.2.2 did with data that was not written back yet."""
    target.file.seek_proven = False
    monkeypatch.setattr(holes, "data_ranges", lambda *_: iter(()))
    target.truncate(0)
    target.write(10 * BLOCK, NEW * BLOCK)
    assert target.settle() == bytes(10 * BLOCK) + NEW * BLOCK


def test_where_nothing_can_be_punched_a_file_is_cut_at_once(target: Target) -> None:
    target.file.abilities = replace(target.file.abilities, punch=False)
    target.file.seek_proven = False
    target.truncate(0)
    assert target.file.tail is None
    assert os.fstat(target.file.fd).st_size == 0


@pytest.mark.parametrize("change", ["distrusted", "append_only", "reserved"])
def test_a_file_that_is_special_has_no_seed(target: Target, change: str) -> None:
    setattr(target.file, change, True)
    target.truncate(0)
    assert target.file.tail is None
    assert os.fstat(target.file.fd).st_size == 0


def test_a_tail_that_begins_while_a_write_comes_in_is_seen(target: Target) -> None:
    """The lock is taken without waiting, by somebody who looked at the file before."""

    class Late:
        def acquire(self, blocking: bool) -> bool:
            target.file.lock = lock
            target.truncate(0)
            return lock.acquire(blocking)

    lock, late = threading.Lock(), Late()
    for _ in range(50):
        os.utime(target.file.fd)
        target.file.lock = late  # type: ignore[assignment]
        arguments: tuple[Any, ...] = (target.file, target.pending, 0, OLD * BLOCK, target.account)
        taken = 0 if unchanged_fast_path.elide(*arguments) is Elided.NOTHING else BLOCK
        assert target.settle() == OLD * taken
        os.pwrite(target.file.fd, OLD * 2 * MIB, 0)


@pytest.mark.parametrize("sizes", [[BLOCK, BLOCK, 3 * BLOCK], [9728, 10_240, 7]])
def test_equal_data_moves_the_frontier_without_the_writer(target: Target, sizes: list[int]) -> None:
    target.truncate(0)
    end = 0
    for size in sizes:
        assert target.elide(end, OLD * size)
        end += size
        assert (target.mark.valid_length, target.mark.size) == (end, end)
    counted = target.account.file((0, 0, 0))
    assert (counted["unchanged_bytes"], counted["received_bytes"]) == (end, end)
    assert target.settle() == OLD * end


def test_zeros_over_a_hole_below_move_it_too(target: Target) -> None:
    os.truncate(target.file.fd, 4 * MIB)
    target.truncate(2 * MIB - BLOCK)
    assert target.elide(2 * MIB - BLOCK, OLD * BLOCK)
    assert target.elide(2 * MIB, bytes(10_000))
    assert target.mark.valid_length == 2 * MIB + 10_000
    assert target.settle() == OLD * 2 * MIB + bytes(10_000)


def test_a_gap_that_is_a_hole_below_needs_no_writer(target: Target) -> None:
    os.pwrite(target.file.fd, OLD * BLOCK, 4 * MIB)
    target.truncate(2 * MIB)
    assert target.elide(4 * MIB, OLD * 1000)
    assert target.mark.valid_length == 4 * MIB + 1000
    assert target.settle() == OLD * 2 * MIB + bytes(2 * MIB)
    assert os.pread(target.file.fd, 5000, 4 * MIB) == OLD * 1000


def test_a_gap_of_zeros_that_are_there_is_not_written_again(target: Target) -> None:
    """rsync -S skips zeros from 1 KiB up, wherever they are."""
    block = NEW * 1024 + bytes(2048) + NEW * 1024
    os.pwrite(target.file.fd, block * 256, 0)
    os.fsync(target.file.fd)
    target.truncate(0)
    tail = target.file.tail
    assert tail is not None
    for offset in range(0, 256 * BLOCK, BLOCK):
        target.write(offset, NEW * 1024)
        target.write(offset + 3072, NEW * 1024)
    assert not tail.changed
    assert target.settle() == block * 256


def test_a_gap_over_old_data_is_wiped_to_the_byte(target: Target) -> None:
    target.truncate(0)
    target.write(0, OLD * 1000)
    target.write(3 * BLOCK + 5, OLD * 1000)
    assert target.settle() == OLD * 1000 + bytes(3 * BLOCK + 5 - 1000) + OLD * 1000


def test_zeros_that_end_in_a_block_of_which_the_rest_is_old_are_not_stored(target: Target) -> None:
    """tar writes pieces of 10 KiB: else their last block is stored, and punched by the next."""
    target.truncate(0)
    for offset in range(0, 20 * 10_240, 10_240):
        target.write(offset, bytes(10_240))
    counted = target.account.file((0, 0, 0))
    assert counted["written_bytes"] == 0
    assert counted["punched_bytes"] + counted["hole_bytes"] == 20 * 10_240
    hidden = 2 * MIB - 20 * 10_240
    assert target.file.tail is not None
    assert abs(target.file.tail.hidden_bytes - hidden) <= 2 * BLOCK
    target.write(20 * 10_240, OLD * 10_240)
    assert target.settle() == bytes(20 * 10_240) + OLD * 10_240


def test_data_behind_such_zeros_is_stored(target: Target) -> None:
    target.truncate(0)
    target.write(0, bytes(BLOCK + 100))
    target.write(BLOCK + 100, OLD * 50)
    target.write(BLOCK + 150, NEW * BLOCK)
    assert target.settle() == bytes(BLOCK + 100) + OLD * 50 + NEW * BLOCK


def test_a_sync_of_what_somebody_came_back_to_leaves_the_tail(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_WORTH_WAITING_BYTES", MIB)
    target.truncate(0)
    tail = target.file.tail
    assert tail is not None
    tail.resumed = True
    target.write(0, OLD * 5000)
    assert not tail.marked
    sync.sync(target.file, True, target.account)
    assert target.file.tail is tail
    assert tail.marked
    assert (target.mark.durable, target.mark.size) == (5000, 5000)
    target.write(5000, OLD * MIB)  # a header no longer
    sync.sync(target.file, True, target.account)
    assert target.file.tail is None
    assert os.pread(target.file.fd, 2 * MIB, 0) == OLD * (MIB + 5000)


def test_without_a_ledger_the_mark_itself_follows(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_table.ProgressTable, "take", lambda *_: -1)
    target.truncate(0)
    target.write(0, OLD * 5000)
    found = recovery_attribute.read(target.file.fd)
    assert found is not None
    assert (found.table, found.valid_length, found.size) == (progress_table.NONE, 5000, 5000)
    assert not target.elide(5000, OLD * 1000)
    assert target.settle() == OLD * 5000


def test_a_seed_that_cannot_even_be_tried_counts_as_a_failed_write(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(seeding, "plant", fail)
    target.file.seed_fd = os.dup(target.file.fd)
    with pytest.raises(OSError, match="Input"):
        target.write(0, NEW * BLOCK)
    counted = target.account.snapshot().since_mount
    assert (counted["failed_bytes"], counted["received_bytes"]) == (BLOCK, 0)
    assert counted["write_requests"] == 1
    assert target.pending.code == errno.EIO
    os.close(target.file.seed_fd)
    target.file.seed_fd = -1


def test_a_mark_is_renewed_before_a_change_that_comes_later(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is changed then would be taken for somebody's doing after a power cut."""
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
    assert after.mtime == int(os.fstat(target.file.fd).st_mtime)
