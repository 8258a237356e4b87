"""Old blocks become zeros where clients see zeros, and nothing is stored that need not be; on a
real file of each file system.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.mirror.seeded import BLOCK, MIB, NEW, OLD

if TYPE_CHECKING:
    from tests.mirror.seeded import Target


def test_a_range_left_out_over_stored_zeros_is_not_written_again(target: Target) -> None:
    """rsync -S skips zeros from 1 KiB up, wherever they are."""
    block = NEW * 1024 + bytes(2048) + NEW * 1024
    os.pwrite(target.file.fd, block * 256, 0)
    os.fsync(target.file.fd)
    target.truncate(0)
    tail = target.file.stale_tail
    assert tail is not None
    for offset in range(0, 256 * BLOCK, BLOCK):
        target.write(offset, NEW * 1024)
        target.write(offset + 3072, NEW * 1024)
    assert not tail.changed
    assert target.finalise() == block * 256


def test_a_range_left_out_over_old_data_is_wiped_to_the_byte(target: Target) -> None:
    target.truncate(0)
    target.write(0, OLD * 1000)
    target.write(3 * BLOCK + 5, OLD * 1000)
    assert target.finalise() == OLD * 1000 + bytes(3 * BLOCK + 5 - 1000) + OLD * 1000


def test_zeros_that_end_in_a_block_of_which_the_rest_is_old_are_not_stored(target: Target) -> None:
    """tar writes pieces of 10 KiB: else their last block is stored, and punched by the next."""
    target.truncate(0)
    for offset in range(0, 20 * 10_240, 10_240):
        target.write(offset, bytes(10_240))
    counted = target.account.file((0, 0, 0))
    assert counted["written_bytes"] == 0
    assert counted["punched_bytes"] + counted["hole_bytes"] == 20 * 10_240
    hidden = 2 * MIB - 20 * 10_240
    assert target.file.stale_tail is not None
    assert abs(target.file.stale_tail.hidden_bytes - hidden) <= 2 * BLOCK
    target.write(20 * 10_240, OLD * 10_240)
    assert target.finalise() == bytes(20 * 10_240) + OLD * 10_240


def test_data_behind_zeros_that_end_in_a_partly_old_block_is_stored(target: Target) -> None:
    target.truncate(0)
    target.write(0, bytes(BLOCK + 100))
    target.write(BLOCK + 100, OLD * 50)
    target.write(BLOCK + 150, NEW * BLOCK)
    assert target.finalise() == bytes(BLOCK + 100) + OLD * 50 + NEW * BLOCK
