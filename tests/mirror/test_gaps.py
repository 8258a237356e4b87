"""A range that a client leaves out, with data behind it: zeros for clients, old blocks below."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import holes, progress_table, recovery_attribute
from mirrorfs.backing.recovery_list import read_list
from mirrorfs.mirror import advancing
from tests.mirror.seeded import BLOCK, MIB, NEW, OLD

if TYPE_CHECKING:
    from tests.mirror.seeded import Target


def gap_noted(target: Target) -> tuple[int, int]:
    """What a crash would find in the progress table."""
    found = recovery_attribute.read(target.file.fd)
    assert found is not None
    (entry,) = read_list(target.state_fd)
    noted = progress_table.read(found.table, found.place, entry.number)
    assert noted is not None
    return noted.gap_start, max(noted.gap_start, noted.gap_end)


def test_a_range_that_was_left_out_is_compared_when_it_is_filled(target: Target) -> None:
    target.truncate(0)
    tail = target.file.stale_tail
    assert tail is not None
    target.write(MIB, OLD * 512)
    assert tail.gap == gap_noted(target) == (0, MIB)
    target.write(0, OLD * 5000)
    assert tail.gap == gap_noted(target) == (5000, MIB)
    assert not target.take(5000, OLD * BLOCK)
    target.write(5000, OLD * (MIB - 5000))
    assert tail.gap is None
    assert gap_noted(target) == (MIB, MIB)
    assert not tail.changed
    hidden = 2 * MIB - MIB - 512
    assert abs(tail.hidden_bytes - hidden) <= 2 * BLOCK
    assert target.finalise() == OLD * (MIB + 512)


def test_what_is_filled_from_its_middle_on_is_zeros_before(target: Target) -> None:
    target.truncate(0)
    target.write(MIB, NEW * 512)
    target.write(100_000, OLD * 50_000)
    tail = target.file.stale_tail
    assert tail is not None
    assert tail.gap == gap_noted(target) == (150_000, MIB)
    target.write(MIB - 50, NEW * 1000)  # over its end
    assert tail.gap is None
    content = bytes(100_000) + OLD * 50_000 + bytes(MIB - 150_050) + NEW * 1000
    assert target.finalise() == content


def test_there_is_one_gap_at_a_time(target: Target) -> None:
    target.truncate(0)
    target.write(300_000, NEW * 512)
    target.write(800_000, OLD * 512)
    tail = target.file.stale_tail
    assert tail is not None
    assert tail.gap == gap_noted(target) == (300_512, 800_000)
    assert os.pread(target.file.fd, 300_000, 0) == bytes(300_000)
    content = bytes(300_000) + NEW * 512 + bytes(800_000 - 300_512) + OLD * 512
    assert target.finalise() == content


@pytest.mark.parametrize("how", ["cut into it", "made durable", "emptied"])
def test_a_gap_ends_when(target: Target, how: str) -> None:
    target.truncate(0)
    target.write(MIB, NEW * 512)
    content = bytes(MIB) + NEW * 512
    tail = target.file.stale_tail
    assert tail is not None
    if how == "made durable":
        advancing.refresh(target.file, tail)
        assert tail.durable == MIB + 512
    else:
        content = content[: 5000 if how == "cut into it" else 0]
        target.truncate(len(content))
    assert tail.gap is None
    assert target.finalise() == content


def test_what_a_gap_would_show_is_left_to_the_writer(target: Target) -> None:
    target.truncate(0)
    assert not target.take(BLOCK, OLD * BLOCK)
    target.write(BLOCK, OLD * BLOCK)
    assert target.finalise() == bytes(BLOCK) + OLD * BLOCK


def test_a_gap_is_zeros_also_where_seek_data_errs(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenZFS before 2.2.2 did with data that was not written back yet."""
    target.file.seek_proven = False
    monkeypatch.setattr(holes, "data_ranges", lambda *_: iter(()))
    target.truncate(0)
    target.write(10 * BLOCK, NEW * BLOCK)
    assert target.finalise() == bytes(10 * BLOCK) + NEW * BLOCK
