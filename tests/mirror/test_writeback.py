"""What stays known of a file after a failed sync, and how it is made good."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfs.backing.probe import probe
from mirrorfs.mirror import sync, writer
from mirrorfs.mirror.counters import Account
from mirrorfs.mirror.open_file import open_writable
from mirrorfs.mirror.plan import Rules
from mirrorfs.mirror.truncate import truncate
from mirrorfs.mirror.writeback import Writeback
from tests.mirror.opened import BLOCK, KEY, open_for_clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirrorfs.mirror.open_file import OpenFile

DATA, OTHER = b"\xa5" * BLOCK, b"\x5a" * BLOCK


@pytest.fixture
def target(ext4_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenFile]:
    """A file of three blocks, whose sync has just failed."""
    path = ext4_folder / "image"
    path.write_bytes(DATA * 3)
    file = open_for_clients(path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input"):
        patch.setattr(os, "fsync", fail)
        sync.sync(file, data_only=False)
    yield file
    os.close(file.fd)


def fail(_fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_after_a_failed_sync_nothing_is_compared_and_no_hole_believed(target: OpenFile) -> None:
    assert target.writeback.failed
    assert target.writeback.unreported_errno == errno.EIO
    assert not target.compares
    assert not target.is_seek_trusted
    assert writer.write(target, 0, DATA).size == BLOCK
    assert target.account.file(KEY)["written_bytes"] == BLOCK


def test_a_sync_after_all_was_written_anew_makes_it_good(target: OpenFile) -> None:
    for place in (2, 0):
        writer.write(target, place * BLOCK, OTHER)
        assert not sync.sync(target, data_only=False)
    writer.write(target, BLOCK, OTHER)
    assert target.writeback.failed
    assert sync.sync(target, data_only=False)
    assert not target.writeback.failed
    assert not sync.sync(target, data_only=False)


def test_a_truncation_to_nothing_makes_it_good(target: OpenFile) -> None:
    truncate(target, BLOCK)
    assert target.writeback.failed
    truncate(target, 0)
    assert not target.writeback.failed


def test_an_interrupted_sync_leaves_no_doubt(
    ext4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_fd: int) -> None:
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    path = ext4_folder / "image"
    path.write_bytes(DATA)
    file = open_for_clients(path)
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(InterruptedError):
        sync.sync(file, data_only=False)
    assert file.writeback == Writeback()
    os.close(file.fd)


def test_ranges_written_anew_count_within_one_opening_only(
    target: OpenFile, ext4_folder: Path
) -> None:
    """What the kernel failed to write back after the file was closed is reported to no opening."""
    writer.write(target, 0, OTHER * 2)
    folder_fd = os.open(ext4_folder, os.O_RDONLY)
    path_fd = os.open(ext4_folder / "image", os.O_PATH)
    abilities = probe(folder_fd, writable=True)
    again = open_writable(path_fd, KEY, abilities, Rules(), Account())
    again.writeback = target.writeback
    again.writeback.note_opened()
    assert again.writeback.failed
    writer.write(again, 2 * BLOCK, OTHER)
    assert not sync.sync(again, data_only=False)
    writer.write(again, 0, OTHER * 3)
    assert sync.sync(again, data_only=False)
    for fd in (folder_fd, path_fd, again.fd):
        os.close(fd)


def test_a_failure_that_was_reported_is_still_a_failure() -> None:
    known = Writeback()
    known.note_failure(errno.ENOSPC)
    known.note_rewritten(0, 10)
    known.note_failure()
    assert (known.failed, known.unreported_errno, known.rewritten) == (True, 0, [])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12))
def test_ranges_written_anew_are_joined_and_apart(ranges: list[tuple[int, int]]) -> None:
    known = Writeback(failed=True)
    model: set[int] = set()
    for start, end in ranges:
        known.note_rewritten(start, end)
        model |= set(range(start, end))
    found = known.rewritten
    assert {place for start, end in found for place in range(start, end)} == model
    assert all(before[1] < after[0] for before, after in pairwise(found))
    size = 1 + max(model, default=0)
    assert known.note_synced(size) is (model == set(range(size)))
