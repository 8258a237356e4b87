"""What the unchanged fast path takes, and what it leaves to the writer; on a real file of each file
system.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import syscalls
from mirrorfs.mirror import unchanged_fast_path, writer
from mirrorfs.mirror.truncate import truncate
from mirrorfs.mirror.unchanged_fast_path import Done
from mirrorfs.mirror.writer import Taken
from tests.mirror.opened import KEY, open_for_clients, take

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 4096
DATA, OTHER, ZEROS = b"\xa5" * BLOCK, b"\x5a" * BLOCK, bytes(BLOCK)


class Target:
    """A file of four blocks of data and four that are a hole."""

    def __init__(self, folder: Path) -> None:
        path = folder / "image"
        path.write_bytes(DATA * 4)
        self.file = open_for_clients(path)
        truncate(self.file, 8 * BLOCK)

    def take(self, offset: int, data: bytes) -> bool:
        return take(self.file, offset, data)

    @property
    def counted(self) -> dict[str, int]:
        return {name: n for name, n in self.file.account.file(KEY).items() if n}


@pytest.fixture
def target(loop_fs: Path) -> Iterator[Target]:
    made = Target(loop_fs)
    yield made
    os.close(made.file.fd)


def test_equal_data_in_the_cache_is_taken_at_once(target: Target) -> None:
    assert target.take(BLOCK, DATA * 2)
    assert target.counted == {
        "received_bytes": 2 * BLOCK,
        "unchanged_bytes": 2 * BLOCK,
        "compared_bytes": 2 * BLOCK,
        "write_requests": 1,
    }


def test_zeros_over_a_hole_are_taken_at_once(target: Target) -> None:
    assert target.take(4 * BLOCK, ZEROS * 4)
    counted = {"received_bytes": 4 * BLOCK, "hole_bytes": 4 * BLOCK, "write_requests": 1}
    assert target.counted == counted


def test_without_seeking_only_equal_data_is_taken_at_once(target: Target) -> None:
    """A worker thread in a call on the file may have the lock that seeking takes."""
    for _ in range(50):
        os.utime(target.file.fd)
        taken = unchanged_fast_path.take(target.file, 4 * BLOCK, ZEROS, may_seek=False)
        assert taken is Done.NOTHING
    assert not target.counted


def test_equal_data_and_zeros_in_one_request_are_taken_at_once(target: Target) -> None:
    assert target.take(2 * BLOCK, DATA * 2 + ZEROS)
    assert target.counted["unchanged_bytes"] == 2 * BLOCK
    assert target.counted["hole_bytes"] == BLOCK


@pytest.mark.parametrize(
    ("offset", "data"),
    [(512, DATA), (0, DATA[:512]), (512, DATA[:512]), (2 * BLOCK - 7, DATA + DATA)],
)
def test_equal_data_at_odd_places_is_taken_at_once(
    target: Target, offset: int, data: bytes
) -> None:
    assert target.take(offset, data)
    assert target.counted["unchanged_bytes"] == len(data)


@pytest.mark.parametrize(("offset", "size"), [(4 * BLOCK + 7, 100), (5 * BLOCK - 1, 2 * BLOCK)])
def test_zeros_at_odd_places_over_a_hole_are_taken_at_once(
    target: Target, offset: int, size: int
) -> None:
    assert target.take(offset, bytes(size))
    assert target.counted["hole_bytes"] == size


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, OTHER),
        (0, DATA + OTHER),
        (0, ZEROS),
        (3 * BLOCK, DATA * 2),
        (7 * BLOCK, ZEROS * 2),
        (8 * BLOCK, DATA),
        (512, bytes(BLOCK - 512) + DATA),
        (0, DATA + bytes(512)),
        (3 * BLOCK + 512, DATA),
        (0, b""),
    ],
    ids=[
        "new data",
        "half of it new",
        "zeros over data",
        "data over a hole",
        "zeros beyond the end",
        "data beyond the end",
        "zeros before a border",
        "zeros behind a border",
        "half over a hole",
        "nothing",
    ],
)
def test_a_write_that_changes_something_is_left_to_the_writer(
    target: Target, offset: int, data: bytes
) -> None:
    before = os.pread(target.file.fd, 16 * BLOCK, 0)
    assert not target.take(offset, data)
    assert not target.counted
    assert os.pread(target.file.fd, 16 * BLOCK, 0) == before


def test_stored_zeros_are_left_to_the_writer_which_punches_them(target: Target) -> None:
    os.pwrite(target.file.fd, ZEROS, 0)
    assert not target.take(0, ZEROS + DATA)


@pytest.mark.parametrize("times", [(5, 5), (2**61, 2**61)], ids=["past", "future"])
def test_times_that_have_to_move_are_left_to_a_worker_thread(
    target: Target, times: tuple[int, int]
) -> None:
    os.utime(target.file.fd, ns=times)
    taken = unchanged_fast_path.take(target.file, 0, DATA)
    assert taken is Done.BUT_TIMES
    assert target.counted["unchanged_bytes"] == target.counted["received_bytes"] == BLOCK
    assert os.fstat(target.file.fd).st_mtime_ns == times[1]
    assert writer.stamp(target.file, BLOCK) == Taken(BLOCK)
    assert abs(os.fstat(target.file.fd).st_mtime_ns - time.time_ns()) < 10**9


@pytest.mark.parametrize("times", [(5, 5), (2**61, 2**61)], ids=["past", "future"])
def test_the_writer_moves_the_times_too(target: Target, times: tuple[int, int]) -> None:
    os.utime(target.file.fd, ns=times)
    written = writer.write(target.file, 0, DATA)
    assert written == Taken(BLOCK)
    assert abs(os.fstat(target.file.fd).st_mtime_ns - time.time_ns()) < 10**9


def test_zeros_in_a_new_tick_are_left_to_the_writer(target: Target) -> None:
    """Whether there is a hole may have to be read from the disk by now."""
    os.utime(target.file.fd, ns=(5, 5))
    taken = unchanged_fast_path.take(target.file, 4 * BLOCK, ZEROS)
    assert taken is Done.NOTHING
    assert not target.counted


def test_times_that_cannot_be_moved_are_reported_as_a_failure(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(syscalls, "touch", fail)
    size, failure, unrecorded = writer.stamp(target.file, BLOCK)
    assert (size, unrecorded) == (BLOCK, None)
    assert failure is not None
    assert failure.errno == errno.EROFS


def test_times_of_a_file_in_memory_move_at_once() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        made = Target(Path(folder))
        os.utime(made.file.fd, ns=(5, 5))
        taken = unchanged_fast_path.take(made.file, 0, DATA)
        assert taken is Done.ALL
        assert abs(os.fstat(made.file.fd).st_mtime_ns - time.time_ns()) < 10**9
        os.close(made.file.fd)


def test_a_file_in_a_worker_threads_hands_is_left_to_the_writer(target: Target) -> None:
    with target.file.lock:
        assert not target.take(0, DATA)


def test_a_file_whose_writeback_failed_is_left_to_the_writer(target: Target) -> None:
    target.file.writeback.failed = True
    assert not target.take(0, DATA)
    assert not target.take(4 * BLOCK, ZEROS)


def test_a_file_that_is_being_changed_is_not_compared_twice(target: Target) -> None:
    writer.write(target.file, 0, OTHER)
    assert not target.take(0, OTHER)
    writer.write(target.file, 0, OTHER)
    assert target.take(0, OTHER)
