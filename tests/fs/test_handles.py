"""Handles by number, and the error of a write that fsync and close report again."""

from __future__ import annotations

import errno
import os
from typing import Any, cast

import pytest

from mirrorfs.fs.handles import (
    ControlHandle,
    FileHandle,
    FolderHandle,
    HandleTable,
    PendingError,
    is_data_only,
)
from mirrorfs.mirror.writer import Taken

BLOCK = 4096


def pending_at(offset: int, code: int = errno.ENOSPC) -> PendingError:
    pending = PendingError()
    pending.note(OSError(code, "injected"), offset)
    return pending


def failed_sync() -> PendingError:
    pending = PendingError()
    pending.note_failed_sync(errno.EIO)
    return pending


def reported(pending: PendingError) -> int:
    """The errno that fsync and close report; 0 for none."""
    try:
        pending.check()
    except OSError as exc:
        return exc.errno or -1
    return 0


def test_a_new_handle_has_no_pending_error() -> None:
    assert reported(PendingError()) == 0


def test_a_pending_error_is_reported_each_time() -> None:
    pending = pending_at(BLOCK)
    assert [reported(pending), reported(pending)] == [errno.ENOSPC, errno.ENOSPC]


def test_an_error_without_a_number_is_reported_as_eio() -> None:
    pending = PendingError()
    pending.note(OSError("no number"), 0)
    assert reported(pending) == errno.EIO


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, BLOCK, errno.ENOSPC),
        (0, BLOCK + 1, 0),
        (BLOCK, BLOCK + 1, 0),
        (BLOCK, BLOCK, errno.ENOSPC),
        (BLOCK + 1, 2 * BLOCK, errno.ENOSPC),
    ],
)
def test_a_write_over_the_place_of_an_error_makes_it_good(
    start: int, end: int, expected: int
) -> None:
    pending = pending_at(BLOCK)
    pending.make_good(start, end)
    assert reported(pending) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 0), (BLOCK, 0), (BLOCK - 1, 0), (BLOCK + 1, errno.ENOSPC)]
)
def test_a_truncation_before_the_place_of_an_error_makes_it_good(size: int, expected: int) -> None:
    pending = pending_at(BLOCK)
    pending.cut(size)
    assert reported(pending) == expected


def test_no_write_makes_a_failed_sync_good() -> None:
    pending = failed_sync()
    pending.make_good(0, 1 << 60)
    pending.cut(BLOCK)
    assert reported(pending) == errno.EIO


def test_a_file_that_was_cut_to_nothing_or_synced_anew_makes_a_failed_sync_good() -> None:
    pending = failed_sync()
    pending.cut(0)
    assert reported(pending) == 0
    pending = failed_sync()
    pending.forget_failed_sync()
    assert reported(pending) == 0


def test_a_good_sync_does_not_make_a_failed_write_good() -> None:
    pending = pending_at(BLOCK)
    pending.forget_failed_sync()
    assert reported(pending) == errno.ENOSPC


def taken(size: int, **more: Any) -> Taken:
    return Taken(size, **more)


def test_a_write_of_which_a_part_was_taken_leaves_an_error_behind_that_part() -> None:
    pending = PendingError()
    pending.note_taken(BLOCK, taken(100, failure=OSError(errno.ENOSPC, "")))
    assert (pending.code, pending.offset) == (errno.ENOSPC, BLOCK + 100)
    pending.note_taken(BLOCK, taken(100))
    assert reported(pending) == errno.ENOSPC
    pending.note_taken(BLOCK, taken(101))
    assert reported(pending) == 0


def test_a_write_whose_place_could_not_be_recorded_is_a_failed_sync() -> None:
    pending = PendingError()
    failures: dict[str, Any] = {"failure": OSError(errno.ENOSPC, "")}
    pending.note_taken(0, taken(BLOCK, unrecorded=OSError(errno.EIO, ""), **failures))
    pending.make_good(0, 1 << 60)
    assert reported(pending) == errno.EIO


def inode() -> Any:
    return cast("Any", object())


def test_numbers_of_handles_are_never_used_twice() -> None:
    table = HandleTable()
    first = table.add(FolderHandle(inode()))
    table.pop(first)
    second = table.add(FolderHandle(inode()))
    assert first != second
    assert 0 not in {first, second}
    assert len(table) == 1


def test_a_handle_of_another_kind_or_that_is_closed_is_a_bad_descriptor() -> None:
    table = HandleTable()
    folder = FolderHandle(inode())
    number = table.add(folder)
    assert table.get(number, FolderHandle) is table.any(number) is folder
    for wrong, kind in [(number, FileHandle), (number, ControlHandle), (number + 1, FolderHandle)]:
        with pytest.raises(OSError) as caught:
            table.get(wrong, kind)
        assert caught.value.errno == errno.EBADF
    assert table.pop(number) is folder
    assert table.pop(number) is None
    assert table.any(number) is None
    with pytest.raises(OSError):
        table.get(number, FolderHandle)


def test_the_open_handles_of_a_file_are_found_by_its_inode() -> None:
    table, file, other = HandleTable(), inode(), inode()
    handles = [FileHandle(file), FileHandle(file), FileHandle(other)]
    numbers = [table.add(handle) for handle in handles]
    table.add(FolderHandle(file))
    table.add(ControlHandle(1))
    assert table.of(file) == handles[:2]
    assert table.files() == handles
    table.pop(numbers[0])
    assert table.of(file) == handles[1:2]
    table.pop(numbers[1])
    assert table.of(file) == []
    assert table.of(other) == handles[2:]


def test_a_handle_that_cannot_be_read_has_no_descriptor() -> None:
    assert FileHandle(inode()).fd == -1


def test_each_handle_has_a_pending_error_of_its_own() -> None:
    first, second = FileHandle(inode()), FileHandle(inode())
    first.pending.note_failed_sync(errno.EIO)
    assert reported(second.pending) == 0


@pytest.mark.parametrize(("flags", "expected"), [(os.O_DSYNC, True), (os.O_SYNC, False)])
def test_o_dsync_alone_makes_data_durable_and_no_times(flags: int, expected: bool) -> None:
    assert is_data_only(flags | os.O_WRONLY) is expected
