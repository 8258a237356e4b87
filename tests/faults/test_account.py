"""The account under concurrency and faults adds up at every instant."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.mounted import CLASSES

if TYPE_CHECKING:
    from tests.faults.conftest import FaultyMirror

BLOCK = 4096


def test_account_adds_up_at_every_instant(faulty: FaultyMirror) -> None:
    """Four writers, a fault injector, and a reader that looks as often as it can."""
    stop = threading.Event()
    taken = [0] * 4

    def write(number: int) -> None:
        chance = random.Random(number)
        fd = os.open(faulty.path / f"file-{number}", os.O_RDWR | os.O_CREAT)
        while not stop.is_set():
            size = chance.randrange(1, 30 * BLOCK)
            piece = chance.choice([bytes(size), b"same" * (size // 4 + 1), chance.randbytes(size)])
            try:
                taken[number] += os.pwrite(fd, piece[:size], chance.randrange(100 * BLOCK))
            except OSError as exc:
                assert exc.errno in {errno.ENOSPC, errno.EIO}
        try:
            os.close(fd)
        except OSError as exc:
            assert exc.errno in {errno.ENOSPC, errno.EIO}

    def disturb() -> None:
        while not stop.is_set():
            for order in ("", "pwrite 30 28", "pwrite 50 0", "pwrite 30 5", ""):
                faulty.order(order)
                time.sleep(0.1)
        faulty.order()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=disturb))
    for thread in threads:
        thread.start()
    end = time.monotonic() + 3
    looks = failed = 0
    try:
        while looks < 100 or not failed or time.monotonic() < end:
            counters = faulty.stats()["counters"]
            assert counters["received_bytes"] == sum(counters[name] for name in CLASSES)
            looks, failed = looks + 1, counters["failed_bytes"]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    counters = faulty.stats()["counters"]
    assert counters["received_bytes"] == sum(taken)
    assert counters["failed_bytes"] > 0
    files = [vars(faulty.account(f"file-{number}")) for number in range(4)]
    for file, count in zip(files, taken, strict=True):
        assert file["received_bytes"] == count == sum(file[name] for name in CLASSES)
    for name in (*CLASSES, "failed_bytes", "write_requests", "compared_bytes"):
        assert counters[name] == sum(file[name] for file in files)
    for number in range(4):
        assert faulty.read(f"file-{number}") == (faulty.backing / f"file-{number}").read_bytes()


def test_failed_write_is_reported_again_at_fsync_and_close(faulty: FaultyMirror) -> None:
    fd = os.open(faulty.path / "file", os.O_RDWR | os.O_CREAT)
    faulty.order(f"pwrite 100 {errno.ENOSPC}")
    for call in (lambda: os.pwrite(fd, b"x" * BLOCK, 0), lambda: os.fsync(fd)):
        with pytest.raises(OSError, match="space"):
            call()
    faulty.order()
    with pytest.raises(OSError, match="space"):
        os.close(fd)


def test_failed_write_that_was_made_good_is_not_reported_again(faulty: FaultyMirror) -> None:
    fd = os.open(faulty.path / "file", os.O_RDWR | os.O_CREAT)
    faulty.order(f"pwrite 100 {errno.ENOSPC}")
    with pytest.raises(OSError, match="space"):
        os.pwrite(fd, b"x" * BLOCK, 0)
    faulty.order()
    assert os.pwrite(fd, b"x" * BLOCK, 0) == BLOCK
    os.fsync(fd)
    os.close(fd)


def test_failed_fsync_leaves_no_block_unchanged(faulty: FaultyMirror) -> None:
    fd = os.open(faulty.path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * BLOCK, 0)
    faulty.order(f"fsync {errno.EIO}")
    with pytest.raises(OSError, match="Input"):
        os.fsync(fd)
    faulty.order()
    with pytest.raises(OSError, match="Input"):
        os.close(fd)
    fd = os.open(faulty.path / "file", os.O_RDWR)
    os.pwrite(fd, b"x" * BLOCK, 0)
    os.fsync(fd)
    os.close(fd)
    account = faulty.account("file")
    assert (account.written_bytes, account.unchanged_bytes) == (2 * BLOCK, 0)


def test_failed_fsync_leaves_no_hole_believed(faulty: FaultyMirror) -> None:
    """Neither by the writer, nor a reader, nor a copy tool when all have closed it."""
    path = faulty.path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4 * BLOCK)
    os.pwrite(fd, b"x" * BLOCK, 2 * BLOCK)
    reading = os.open(path, os.O_RDONLY)
    for used in (fd, reading):
        assert os.lseek(used, 0, os.SEEK_DATA) == 2 * BLOCK
    faulty.order(f"fsync {errno.EIO}")
    with pytest.raises(OSError, match="Input"):
        os.fsync(fd)
    faulty.order()
    for used in (fd, reading):
        assert os.lseek(used, 0, os.SEEK_DATA) == 0
        assert os.lseek(used, 0, os.SEEK_HOLE) == 4 * BLOCK
    for used in (fd, reading):
        with contextlib.suppress(OSError):
            os.close(used)
    with path.open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0


def test_failed_fsync_is_over_when_the_file_is_written_anew(faulty: FaultyMirror) -> None:
    fd = os.open(faulty.path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 4 * BLOCK, 0)
    faulty.order(f"fsync {errno.EIO}")
    with pytest.raises(OSError, match="Input"):
        os.fsync(fd)
    faulty.order()
    for block in (2, 0, 3):
        os.pwrite(fd, b"x" * BLOCK, block * BLOCK)
        with pytest.raises(OSError, match="Input"):
            os.fsync(fd)
    os.pwrite(fd, b"x" * BLOCK, BLOCK)
    os.fsync(fd)
    before = faulty.account("file")
    assert before.written_bytes == 8 * BLOCK
    os.pwrite(fd, b"x" * 4 * BLOCK, 0)
    assert faulty.account("file").written_bytes == before.written_bytes
    os.close(fd)


def test_failed_write_beyond_a_new_end_is_forgotten(faulty: FaultyMirror) -> None:
    """What databases do on a full disk: they undo the extension that failed, and go on."""
    fds = [os.open(faulty.path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    os.pwrite(fds[0], b"x" * BLOCK, 0)
    faulty.order(f"pwrite 100 {errno.ENOSPC}")
    for fd in fds:
        with pytest.raises(OSError, match="space"):
            os.pwrite(fd, b"x" * BLOCK, 2 * BLOCK)
    assert os.fstat(fds[0]).st_size == BLOCK
    faulty.order()
    os.ftruncate(fds[0], BLOCK)
    for fd in fds:
        os.fsync(fd)
        os.close(fd)


def test_stalled_file_does_not_hold_up_the_others(faulty: FaultyMirror) -> None:
    faulty.order("stall slow")
    fd = os.open(faulty.path / "slow", os.O_RDWR | os.O_CREAT)
    thread = threading.Thread(target=os.pwrite, args=(fd, b"x" * BLOCK, 0))
    thread.start()
    for number in range(50):
        faulty.write("other", number * BLOCK, b"y" * BLOCK)
        os.stat(faulty.path / "other")
    assert thread.is_alive()
    faulty.order()
    thread.join()
    os.close(fd)
    assert faulty.read("slow") == b"x" * BLOCK


def test_reset_starts_the_second_set_of_counters_anew(faulty: FaultyMirror) -> None:
    faulty.write("file", 0, b"x" * 100)
    (faulty.path / ".mirrorfs/reset").write_text("1\n")
    faulty.write("file", 0, b"x" * 10)
    stats = faulty.stats()
    assert stats["counters"]["received_bytes"] == 110
    assert stats["since_reset"]["received_bytes"] == 10
    with pytest.raises(OSError, match="Invalid"):
        (faulty.path / ".mirrorfs/reset").write_text("2\n")
