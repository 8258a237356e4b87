"""Reading a whole file: what is a hole, what stays in the page cache, what is cut off."""

from __future__ import annotations

import itertools
import os
import random
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import scan
from mirrorfs.backing.scan import READ, WINDOW_BYTES, Part, Reader
from tests.commands import run

if TYPE_CHECKING:
    from pathlib import Path

UNIT = 65536


def cached_pages(path: Path) -> int:
    return int(run("fincore", "--noheadings", "--output", "PAGES", path).stdout)


def read_all(path: Path, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = [
            Part(start, min(start + WINDOW_BYTES, size), READ)
            for start in range(0, size, WINDOW_BYTES)
        ]
        return b"".join(bytes(content) for _, content in Reader(fd).read(parts))
    finally:
        os.close(fd)


@pytest.mark.parametrize("is_cached", [False, True])
def test_the_page_cache_is_left_as_it_was(loop_fs: Path, is_cached: bool) -> None:
    path, data = loop_fs / "image", os.urandom(9 * WINDOW_BYTES + 777)
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    if not is_cached:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    before = cached_pages(path)
    assert bool(before) == is_cached
    assert read_all(path, len(data)) == data
    after = cached_pages(path)
    # What the kernel reads so fast that it seems to have been there stays; that is rare.
    assert after == before if is_cached else after <= WINDOW_BYTES // 4096


def test_what_was_cut_off_meanwhile_reads_as_zeros(ext4_folder: Path) -> None:
    path, data = ext4_folder / "image", os.urandom(WINDOW_BYTES + 777)
    path.write_bytes(data)
    assert read_all(path, 9 * WINDOW_BYTES).rstrip(b"\0") == data.rstrip(b"\0")


def test_parts_that_are_not_read_come_in_their_place(ext4_folder: Path) -> None:
    path = ext4_folder / "image"
    path.write_bytes(b"x" * 20)
    fd = os.open(path, os.O_RDONLY)
    parts = [Part(number, number + 1, READ if number % 3 else "hole") for number in range(20)]
    found = [(part, bytes(content)) for part, content in Reader(fd).read(parts)]
    os.close(fd)
    assert found == [(part, b"x" if part.kind == READ else b"") for part in parts]


def test_whole_units_that_hold_data(loop_fs: Path) -> None:
    chance = random.Random(3)
    path, size = loop_fs / "image", 100 * UNIT + 5
    with path.open("wb") as file:
        file.truncate(size)
        units = sorted(chance.sample(range(101), 30))
        for unit in units:
            file.seek(min(unit * UNIT + chance.randrange(UNIT), size - 1))
            file.write(b"x")
    fd = os.open(path, os.O_RDONLY)
    found = list(scan.data_units(fd, size, UNIT, trusted=True))
    whole = list(scan.data_units(fd, size, UNIT, trusted=False))
    os.close(fd)
    assert [unit for start, end in found for unit in range(start, end)] == units
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))
    assert whole == [(0, 101)]


def test_holes_are_trusted_where_they_were_tried(loop_fs: Path, tmp_path: Path) -> None:
    path = loop_fs / "image"
    path.touch()
    with path.open("rb") as file:
        assert scan.HoleTrust().has(file.fileno(), os.fsencode(loop_fs))
    assert [one.name for one in loop_fs.iterdir()] == ["image"]
    with open("/proc/self/status", "rb") as file:
        assert not scan.HoleTrust().has(file.fileno(), b"/proc/self")
