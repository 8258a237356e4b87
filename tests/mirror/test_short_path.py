"""What the short path of a write takes, and what it leaves to the writer; on a file of each file
system.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import syscalls
from mirrorfs.mirror import short_path, writer
from mirrorfs.mirror.plan import Rules
from mirrorfs.mirror.truncate import truncate
from mirrorfs.mirror.writer import Taken
from tests.mirror.opened import KEY, open_for_clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 4096
DATA, OTHER, ZEROS = b"\xa5" * BLOCK, b"\x5a" * BLOCK, bytes(BLOCK)


class Target:
    """A file of four blocks of data and four that are a hole."""

    def __init__(self, folder: Path) -> None:
        path = folder / "image"
        path.write_bytes(DATA * 4)
        self.file = open_for_clients(path)
        truncate(self.file, 8 * BLOCK)

    def take(self, offset: int, data: bytes) -> int:
        with self.file.lock:
            return short_path.take(self.file, offset, data, 1)

    @property
    def content(self) -> bytes:
        return os.pread(self.file.fd, 16 * BLOCK, 0)

    @property
    def counted(self) -> dict[str, int]:
        return {name: n for name, n in self.file.account.file(KEY).items() if n}


@pytest.fixture
def target(loop_fs: Path) -> Iterator[Target]:
    made = Target(loop_fs)
    yield made
    os.close(made.file.fd)


def test_equal_data_in_the_cache_is_taken(target: Target) -> None:
    assert target.take(BLOCK, DATA * 2)
    assert target.counted == {
        "received_bytes": 2 * BLOCK,
        "unchanged_bytes": 2 * BLOCK,
        "compared_bytes": 2 * BLOCK,
        "write_requests": 1,
    }


def test_zeros_over_a_hole_are_taken(target: Target) -> None:
    assert target.take(4 * BLOCK, ZEROS * 4)
    counted = {"received_bytes": 4 * BLOCK, "hole_bytes": 4 * BLOCK, "write_requests": 1}
    assert target.counted == counted


def test_equal_data_and_zeros_in_one_request_are_taken(target: Target) -> None:
    assert target.take(2 * BLOCK, DATA * 2 + ZEROS)
    assert target.counted["unchanged_bytes"] == 2 * BLOCK
    assert target.counted["hole_bytes"] == BLOCK


@pytest.mark.parametrize(
    ("offset", "data"),
    [(512, DATA), (0, DATA[:512]), (512, DATA[:512]), (2 * BLOCK - 7, DATA + DATA)],
)
def test_equal_data_at_odd_places_is_taken(target: Target, offset: int, data: bytes) -> None:
    assert target.take(offset, data)
    assert target.counted["unchanged_bytes"] == len(data)


@pytest.mark.parametrize(("offset", "size"), [(4 * BLOCK + 7, 100), (5 * BLOCK - 1, 2 * BLOCK)])
def test_zeros_at_odd_places_over_a_hole_are_taken(target: Target, offset: int, size: int) -> None:
    assert target.take(offset, bytes(size))
    assert target.counted["hole_bytes"] == size


@pytest.mark.parametrize(
    ("offset", "data", "compared"),
    [(0, OTHER * 2, 2), (8 * BLOCK, DATA * 3, 0), (8 * BLOCK, DATA[:7], 0), (5 * BLOCK, DATA, 0)],
    ids=["other data", "data at the end", "part of a block at the end", "data over a hole"],
)
def test_new_data_is_written(target: Target, offset: int, data: bytes, compared: int) -> None:
    before = target.content
    assert target.take(offset, data) == len(data)
    assert target.content == before[:offset] + data + before[offset + len(data) :]
    expected = {
        "received_bytes": len(data),
        "written_bytes": len(data),
        "compared_bytes": compared * BLOCK,
        "write_requests": 1,
    }
    assert target.counted == {name: n for name, n in expected.items() if n}


def test_data_of_which_the_file_system_takes_a_part_is_counted_that_far(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:100], offset))
        assert target.take(0, OTHER) == 100
    assert target.counted["received_bytes"] == target.counted["written_bytes"] == 100
    assert "write_requests" not in target.counted


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, DATA + OTHER),
        (0, ZEROS),
        (3 * BLOCK, DATA * 2),
        (7 * BLOCK, ZEROS * 2),
        (8 * BLOCK, ZEROS),
        (8 * BLOCK, DATA + bytes(7)),
        (9 * BLOCK, DATA),
        (512, bytes(BLOCK - 512) + DATA),
        (0, DATA + bytes(512)),
        (0, OTHER[:512]),
        (3 * BLOCK + 512, DATA),
        (0, b""),
    ],
    ids=[
        "half of it new",
        "zeros over data",
        "data over a border of a hole",
        "zeros beyond the end",
        "zeros at the end",
        "data and zeros at the end",
        "data behind a gap",
        "zeros before a border",
        "zeros behind a border",
        "a part of a block",
        "half over a hole",
        "nothing",
    ],
)
def test_what_needs_more_than_one_decision_is_left_to_the_writer(
    target: Target, offset: int, data: bytes
) -> None:
    before = target.content
    assert not target.take(offset, data)
    assert not target.counted
    assert target.content == before


def test_zeros_that_are_kept_are_unchanged_over_a_hole_and_written_at_the_end(
    target: Target,
) -> None:
    target.file.rules = Rules(punch=False)
    before = os.fstat(target.file.fd).st_blocks
    assert target.take(4 * BLOCK, ZEROS * 4) == 4 * BLOCK
    assert target.counted["unchanged_bytes"] == 4 * BLOCK
    assert os.fstat(target.file.fd).st_blocks == before
    assert target.take(8 * BLOCK, ZEROS) == BLOCK
    assert target.counted["written_bytes"] == BLOCK


@pytest.mark.parametrize("place", [0, 4 * BLOCK, 8 * BLOCK])
def test_what_only_the_writer_may_change_is_left_to_it(target: Target, place: int) -> None:
    target.file.append_only = True
    assert not target.take(place, DATA)
    target.file.append_only, target.file.seed_fd = False, 1000
    assert not target.take(place, DATA)


def test_a_write_that_the_short_path_begins_is_finished_by_the_writer(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, sizes = os.pwrite, [100, 3000]

    def write(fd: int, data: bytes, offset: int) -> int:
        return pwrite(fd, data[: sizes.pop(0) if sizes else None], offset)

    monkeypatch.setattr(os, "pwrite", write)
    assert writer.write(target.file, 0, OTHER * 2) == Taken(2 * BLOCK)
    assert target.content[: 3 * BLOCK] == OTHER * 2 + DATA
    assert target.counted["received_bytes"] == target.counted["written_bytes"] == 2 * BLOCK
    assert target.counted["write_requests"] == 1
    assert "failed_bytes" not in target.counted


def test_a_write_that_fails_in_its_middle_is_taken_that_far(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, sizes = os.pwrite, [100]

    def write(fd: int, data: bytes, offset: int) -> int:
        if not sizes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data[: sizes.pop(0)], offset)

    monkeypatch.setattr(os, "pwrite", write)
    size, failure, _ = writer.write(target.file, 0, OTHER)
    assert size == 100
    assert failure is not None
    assert failure.errno == errno.ENOSPC
    assert target.counted["failed_bytes"] == BLOCK - 100
    assert target.counted["received_bytes"] == 100


def test_stored_zeros_are_left_to_the_writer_which_punches_them(target: Target) -> None:
    os.pwrite(target.file.fd, ZEROS, 0)
    assert not target.take(0, ZEROS + DATA)


@pytest.mark.parametrize("times", [(5, 5), (2**61, 2**61)], ids=["past", "future"])
@pytest.mark.parametrize(("offset", "data"), [(0, DATA), (4 * BLOCK, ZEROS), (0, OTHER)])
def test_times_move(target: Target, times: tuple[int, int], offset: int, data: bytes) -> None:
    os.utime(target.file.fd, ns=times)
    assert target.take(offset, data) == BLOCK
    assert abs(os.fstat(target.file.fd).st_mtime_ns - time.time_ns()) < 10**9


def test_each_write_moves_the_times(target: Target) -> None:
    for _ in range(5):
        before = os.fstat(target.file.fd).st_mtime_ns
        time.sleep(0.02)  # several ticks of the clock that stamps files
        assert target.take(0, DATA) == BLOCK
        assert os.fstat(target.file.fd).st_mtime_ns > before


@pytest.mark.parametrize("times", [(5, 5), (2**61, 2**61)], ids=["past", "future"])
def test_the_writer_moves_the_times_too(target: Target, times: tuple[int, int]) -> None:
    os.utime(target.file.fd, ns=times)
    written = writer.write(target.file, 0, DATA)
    assert written == Taken(BLOCK)
    assert abs(os.fstat(target.file.fd).st_mtime_ns - time.time_ns()) < 10**9


def test_times_that_cannot_be_moved_are_a_failure_of_the_writer(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    os.utime(target.file.fd, ns=(5, 5))
    monkeypatch.setattr(syscalls, "touch", fail)
    size, failure, unrecorded = writer.write(target.file, 0, DATA)
    assert (size, unrecorded) == (BLOCK, None)
    assert failure is not None
    assert failure.errno == errno.EROFS
    assert target.counted["received_bytes"] == target.counted["unchanged_bytes"] == BLOCK


def test_a_file_whose_writeback_failed_is_left_to_the_writer(target: Target) -> None:
    target.file.writeback.failed = True
    assert not target.take(0, DATA)
    assert not target.take(4 * BLOCK, ZEROS)
