"""Which file keeps its old blocks as a seed, and which does not; on a real file of each file
system, without a mount.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror import seeding
from tests.mirror.seeded import BLOCK, MIB, NEW, OLD

if TYPE_CHECKING:
    from tests.mirror.seeded import Target


def test_old_blocks_are_left_below_until_they_are_cut_off(target: Target) -> None:
    target.truncate(0)
    target.write(0, OLD * BLOCK + NEW * BLOCK)
    assert os.fstat(target.file.fd).st_size == 2 * MIB
    assert target.account.file((0, 0, 0))["unchanged_bytes"] == BLOCK
    assert target.finalise() == OLD * BLOCK + NEW * BLOCK


def test_where_nothing_can_be_punched_a_file_is_cut_at_once(target: Target) -> None:
    target.file.abilities = replace(target.file.abilities, punch=False)
    target.file.seek_proven = False
    target.truncate(0)
    assert target.file.stale_tail is None
    assert os.fstat(target.file.fd).st_size == 0


@pytest.mark.parametrize("change", ["failed", "append_only", "reserved"])
def test_a_file_that_is_doubtful_append_only_or_reserved_has_no_seed(
    target: Target, change: str
) -> None:
    setattr(target.file if change == "append_only" else target.file.writeback, change, True)
    target.truncate(0)
    assert target.file.stale_tail is None
    assert os.fstat(target.file.fd).st_size == 0


def test_a_seed_that_cannot_even_be_tried_counts_as_a_failed_write(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(seeding, "plant", fail)
    target.file.seed_fd = os.dup(target.file.fd)
    with pytest.raises(OSError, match="Input") as caught:
        target.write(0, NEW * BLOCK)
    assert caught.value.errno == errno.EIO
    counted = target.account.snapshot().since_mount
    assert (counted["failed_bytes"], counted["received_bytes"]) == (BLOCK, 0)
    assert counted["write_requests"] == 1
    os.close(target.file.seed_fd)
    target.file.seed_fd = -1
