"""A file that hangs, and one of very many extents, leave the others what is theirs."""

from __future__ import annotations

import os
import statistics
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.conftest import FaultyMirror
    from tests.mounted import Mirror

KIB, MIB = 1 << 10, 1 << 20
WRITERS = 7
FILE_BYTES = 8 * MIB
EXTENTS = 30_000  # a walk over them takes 7 ms or more
ROUNDS, WALKS = 30, 5


def median_look(faulty: FaultyMirror, name: str) -> float:
    """How long a stat takes while seven clients write files whose names begin with this."""

    def work(number: int) -> None:
        data = os.urandom(64 * KIB)
        fd = os.open(faulty.path / f"{name}-{number}", os.O_WRONLY | os.O_CREAT)
        for offset in range(0, FILE_BYTES, len(data)):
            os.pwrite(fd, data, offset)
        os.close(fd)

    writers = [threading.Thread(target=work, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    looks: list[float] = []
    while any(writer.is_alive() for writer in writers):
        begun = time.perf_counter()
        os.stat(faulty.path / "small")
        looks.append(time.perf_counter() - begun)
        time.sleep(0.002)
    return statistics.median(looks)


def test_seven_writers_are_done_while_the_eighth_hangs(faulty: FaultyMirror) -> None:
    """And a stat meanwhile takes as long as without it."""
    faulty.write("small", 0, b"x")
    free = median_look(faulty, "before")
    faulty.order("stall hung")
    hung = threading.Thread(target=faulty.write, args=("hung", 0, b"x" * 4 * KIB))
    hung.start()
    time.sleep(0.6)  # until the daemon has seen that it hangs
    beside = median_look(faulty, "beside")
    assert hung.is_alive()
    assert beside < max(0.1, 10 * free)
    faulty.order()
    hung.join()
    assert faulty.account("hung").written_bytes == 4 * KIB


def test_walk_over_very_many_extents_does_not_hold_up_stat(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """A preallocated file whose gaps are in the page cache is one run of data, however long."""
    fd = os.open(ext4_folder / "comb", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, EXTENTS * 8 * KIB)
    for number in range(EXTENTS):
        os.pwrite(fd, b"x" * 4 * KIB, number * 8 * KIB)
    os.fsync(fd)
    for offset in range(0, EXTENTS * 8 * KIB, MIB):
        os.pread(fd, MIB, offset)
    os.close(fd)
    mirror = mount_mirror(ext4_folder, "attr_timeout=0")
    over = threading.Event()
    walks: list[float] = []

    def walk() -> None:
        reading = os.open(mirror.path / "comb", os.O_RDONLY)
        while not over.is_set():
            begun = time.perf_counter()
            assert os.lseek(reading, 0, os.SEEK_HOLE) == EXTENTS * 8 * KIB
            walks.append(time.perf_counter() - begun)
        os.close(reading)

    def look() -> list[float]:
        """How long each look takes during some walks."""
        looks, last = [], len(walks) + WALKS
        while len(walks) < last:
            begun = time.perf_counter()
            os.stat(mirror.path / "comb")
            looks.append(time.perf_counter() - begun)
        return looks

    walker = threading.Thread(target=walk)
    walker.start()
    # A machine busy with other things may be slow for other reasons, but not in each round.
    try:
        while len(walks) < WALKS:  # the first one is a thread's in any case
            time.sleep(0.01)
        for _ in range(ROUNDS):
            if statistics.median(look()) < statistics.median(walks) / 10:
                return
        pytest.fail("stat of a file waits for walks over its extents")
    finally:
        over.set()
        walker.join()
