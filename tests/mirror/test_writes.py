"""What one write does to the backing file, seen through a real mount on each file system."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.mounted import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

BLOCK = 4096
DATA, ZEROS = b"\xa5" * BLOCK, bytes(BLOCK)


def test_zeros_over_data_become_a_hole(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA * 3)
    mirror.write("vm.img", BLOCK, ZEROS)
    assert mirror.holes("vm.img") == [(BLOCK, 2 * BLOCK)]
    account = mirror.account("vm.img")
    assert account.punched_bytes == BLOCK
    assert account.freed_bytes == BLOCK


def test_zeros_beyond_the_end_only_grow_the_file(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, ZEROS * 256)
    assert (mirror.path / "vm.img").stat().st_size == 256 * BLOCK
    assert (mirror.backing / "vm.img").stat().st_blocks == 0
    assert mirror.account("vm.img").hole_bytes == 256 * BLOCK


def test_equal_data_is_not_written(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA * 8)
    before = mirror.account("vm.img").written_bytes
    mirror.write("vm.img", 0, DATA * 8)
    account = mirror.account("vm.img")
    assert account.written_bytes == before
    assert account.unchanged_bytes == 8 * BLOCK


def test_one_changed_block_is_the_only_one_written(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA * 64)
    new = bytearray(DATA * 64)
    new[20 * BLOCK + 7] = 0
    mirror.write("vm.img", 0, bytes(new))
    assert mirror.account("vm.img").written_bytes == 65 * BLOCK
    assert (mirror.backing / "vm.img").read_bytes() == new


def test_four_small_writes_of_zeros_end_as_one_hole(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA * 3)
    for part in range(4):
        mirror.write("vm.img", BLOCK + part * 1024, bytes(1024))
    assert mirror.holes("vm.img") == [(BLOCK, 2 * BLOCK)]
    account = mirror.account("vm.img")
    assert (account.written_bytes, account.punched_bytes) == (3 * BLOCK + 3072, 1024)
    assert account.freed_bytes == BLOCK


def test_a_last_block_cut_down_to_zeros_is_a_hole(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA + bytes(100) + b"x" * 100)
    os.truncate(mirror.path / "vm.img", BLOCK + 100)
    assert mirror.holes("vm.img") == [(BLOCK, BLOCK + 100)]


def test_an_unchanged_write_still_moves_the_times(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    os.utime(mirror.path / "vm.img", ns=(5, 5))
    mirror.write("vm.img", 0, DATA)
    status = (mirror.path / "vm.img").stat()
    assert status.st_mtime_ns > 5
    assert status.st_atime_ns == 5


def test_times_set_by_a_tool_survive_the_close(mirror: Mirror) -> None:
    with (mirror.path / "vm.img").open("wb") as file:
        file.write(DATA)
        file.flush()
        os.utime(file.fileno(), ns=(7, 9))
    status = (mirror.path / "vm.img").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (7, 9)


@pytest.mark.parametrize(
    ("options", "written", "unchanged", "holes"),
    [
        ("zeros=keep", 3 * BLOCK, 3 * BLOCK, 0),
        ("unchanged=write", 4 * BLOCK, 0, 2 * BLOCK),
        ("zeros=keep,unchanged=write", 6 * BLOCK, 0, 0),
    ],
)
def test_each_rule_can_be_turned_off(
    loop_fs: Path,
    mount_mirror: Callable[..., Mirror],
    options: str,
    written: int,
    unchanged: int,
    holes: int,
) -> None:
    mirror = mount_mirror(loop_fs, options)
    for _ in range(2):
        mirror.write("vm.img", 0, DATA + ZEROS + DATA)
    account = mirror.account("vm.img")
    found = (account.written_bytes, account.unchanged_bytes, account.hole_bytes)
    assert found == (written, unchanged, holes)
    assert (mirror.backing / "vm.img").read_bytes() == DATA + ZEROS + DATA


def test_a_larger_block_decides_in_larger_pieces(
    loop_fs: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(loop_fs, "block=64k")
    mirror.write("vm.img", 0, DATA * 32)
    mirror.write("vm.img", 0, ZEROS + DATA * 31)
    assert mirror.holes("vm.img") == []
    assert mirror.account("vm.img").unchanged_bytes == 65536


def test_a_file_that_may_not_be_read_is_written_without_comparing(mirror: Mirror) -> None:
    mirror.write("log", 0, b"one\n")
    os.chmod(mirror.backing / "log", 0o600)
    with (mirror.path / "log").open("ab") as file:
        file.write(b"two\n")
    assert mirror.read("log") == b"one\ntwo\n"


def test_two_appenders_lose_nothing(mirror: Mirror) -> None:
    line = b"x" * 100 + b"\n"
    fds = [os.open(mirror.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2)]
    for _ in range(50):
        for fd in fds:
            os.write(fd, line)
    for fd in fds:
        os.close(fd)
    assert mirror.read("log") == line * 100


def test_every_received_byte_is_in_one_class(mirror: Mirror) -> None:
    mirror.write("a", 0, DATA * 3 + ZEROS)
    mirror.write("a", 100, DATA)
    mirror.write("b", 5000, ZEROS + DATA)
    counters = mirror.stats()["counters"]
    assert counters["received_bytes"] == 4 * BLOCK + BLOCK + 2 * BLOCK
    assert counters["received_bytes"] == sum(counters[name] for name in CLASSES)


def test_o_sync_writes_are_durable_without_a_difference_in_content(mirror: Mirror) -> None:
    fd = os.open(mirror.path / "vm.img", os.O_RDWR | os.O_CREAT | os.O_SYNC)
    os.pwrite(fd, DATA, 0)
    os.pwrite(fd, DATA, 0)
    assert os.pread(fd, BLOCK, 0) == DATA
    os.close(fd)


def test_many_opens_and_closes_of_one_file_at_once(mirror: Mirror) -> None:
    """Every block is written by an open of its own: one closes last while another opens."""
    writers, blocks = 8, 40

    def write(number: int) -> None:
        for index in range(blocks):
            place = (index * writers + number) * BLOCK
            mirror.write("vm.img", place, bytes([number + 1]) * BLOCK)
            assert mirror.write(f"own-{number}", place, bytes([number + 101]) * BLOCK) == BLOCK

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = b"".join(bytes([number + 1]) * BLOCK for number in range(writers)) * blocks
    assert (mirror.backing / "vm.img").read_bytes() == expected
    assert len(os.listdir(f"/proc/{mirror.pid}/fd")) < 60
