"""The last run of data is remembered: its end is looked for once, and the counts stay right."""

from __future__ import annotations

import os
import random
import tempfile
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import holes, progress_table
from mirrorfs.backing.recovery_list import RecoveryList
from mirrorfs.mirror import discard, writer
from mirrorfs.mirror.truncate import truncate
from mirrorfs.mirror.writer import Taken
from tests.mirror.opened import KEY, open_for_clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 4096
GAPS = 600
SIZE = 2 * GAPS * BLOCK
DATA = b"\xa5" * BLOCK
REQUEST = DATA + bytes(BLOCK)


class Target:
    """A preallocated file of which every second block was written; all of it is in the page cache,
    so that on ext4 and xfs it is one run of data. `looked_at` says where the end of a run was
    looked for.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "image"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self.fd, 0, SIZE)
        for offset in range(0, SIZE, 2 * BLOCK):
            os.pwrite(self.fd, DATA, offset)
        os.fsync(self.fd)
        assert len(os.pread(self.fd, SIZE, 0)) == SIZE
        self.data_bytes = sum(stop - first for first, stop in holes.data_ranges(self.fd, 0, SIZE))
        self.file = open_for_clients(path)
        self.state = os.fsencode(folder / "state")
        self.file.recovery_list = RecoveryList(self.state)
        self.file.path = lambda: b"image"
        self.looked_at: list[int] = []

    def write(self, offset: int, data: bytes) -> None:
        assert writer.write(self.file, offset, data) == Taken(len(data))

    @property
    def counted(self) -> dict[str, int]:
        return self.file.account.file(KEY)


@pytest.fixture
def target(loop_fs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    made = Target(loop_fs)
    look = holes._end_of_data

    def note(fd: int, first: int) -> int | None:
        made.looked_at.append(first)
        return look(fd, first)

    monkeypatch.setattr(holes, "_end_of_data", note)
    yield made
    progress_table.remove_all(progress_table.owner_of(made.state))
    os.close(made.file.fd)
    os.close(made.fd)


@pytest.mark.parametrize("seeded", [False, True], ids=["in place", "truncated first"])
def test_zeros_over_cached_gaps_look_for_the_end_once(target: Target, seeded: bool) -> None:
    if seeded:
        truncate(target.file, 0, seeds=True)
        assert target.file.stale_tail is not None
    for offset in range(0, SIZE, 64 * BLOCK):
        target.write(offset, (REQUEST * 32)[: SIZE - offset])
    counted = target.counted
    assert counted["unchanged_bytes"] == SIZE // 2
    assert counted["punched_bytes"] == target.data_bytes - SIZE // 2
    assert counted["punched_bytes"] + counted["hole_bytes"] == SIZE // 2
    if target.data_bytes == SIZE:  # the gaps are data: not so on btrfs
        assert len(target.looked_at) <= 2
    else:  # each block of data is a run of its own
        assert len(target.looked_at) <= GAPS


def test_zeros_in_many_steps_over_one_run_of_data_look_for_its_end_once(target: Target) -> None:
    os.pwrite(target.fd, DATA * 2 * GAPS, 0)
    for offset in range(0, SIZE, 2 * BLOCK):
        target.write(offset, bytes(BLOCK))
    assert target.counted["punched_bytes"] == SIZE // 2
    assert len(target.looked_at) <= 2


@pytest.mark.parametrize("order", ["forwards", "backwards", "anyhow"])
def test_counts_of_punched_bytes_are_right_in_any_order(target: Target, order: str) -> None:
    """Each block is made a hole by one of three ways, some of them twice."""
    os.pwrite(target.fd, DATA * 2 * GAPS, 0)
    chance = random.Random(7)
    blocks = [*range(100), *range(100)]
    if order == "backwards":
        blocks.reverse()
    elif order == "anyhow":
        chance.shuffle(blocks)
    gone: set[int] = set()
    punched = 0
    for block in blocks:
        offset = block * BLOCK
        counted_anew = sum(b - a for a, b in holes.data_ranges(target.fd, offset, offset + BLOCK))
        assert target.file.data_bytes(offset, offset + BLOCK) == counted_anew
        if chance.random() < 0.3:
            end = offset + BLOCK
            discard.discard(target.file, offset, end, True)
        else:
            target.write(offset, bytes(BLOCK))
            punched += BLOCK * (block not in gone)
        gone.add(block)
    assert target.counted["punched_bytes"] == punched


def test_a_file_that_was_cut_and_has_grown_has_a_hole_there(target: Target) -> None:
    os.pwrite(target.fd, DATA * 2 * GAPS, 0)
    assert target.file.data_bytes(0, SIZE) == SIZE
    truncate(target.file, SIZE // 2)
    truncate(target.file, SIZE)
    os.pwrite(target.fd, DATA, SIZE - BLOCK)
    assert target.file.data_bytes(0, SIZE) == SIZE // 2 + BLOCK


def test_a_block_written_beside_the_mount_is_punched_all_the_same(target: Target) -> None:
    """Whether there is data is looked up every time."""
    target.write(0, bytes(8 * BLOCK))
    os.pwrite(target.fd, DATA, 4 * BLOCK)
    target.write(4 * BLOCK, bytes(BLOCK))
    assert os.pread(target.fd, 8 * BLOCK, 0) == bytes(8 * BLOCK)


def test_the_last_block_of_the_largest_file_in_memory_is_found() -> None:
    """tmpfs ends its data with a whole block, which would end at 2^63."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        fd, start = file.fileno(), (1 << 63) - 8192
        os.pwrite(fd, b"a" * 8000, start)
        end = os.fstat(fd).st_size
        assert list(holes.data_ranges(fd, 0, end)) == [(start, end)]
        assert holes.seek(fd, start, os.SEEK_HOLE, trusted=True) == end
