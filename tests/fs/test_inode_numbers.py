"""The inode numbers that clients see are derived, so that they stay over a remount."""

from __future__ import annotations

import pytest

from mirrorfs.fs import inode_numbers
from mirrorfs.fs.inode_numbers import FIRST_CONTROL_ID, FIRST_OTHER_ID, ROOT_ID

NUMBERS = (1, 12, 1 << 56, (1 << 64) - 1)
SHIFT = inode_numbers.shift_of(b"ext4 1234")


def test_the_shift_of_a_file_system_depends_on_its_identity_and_the_attempt_alone() -> None:
    assert inode_numbers.shift_of(b"ext4 1234") == SHIFT
    assert inode_numbers.shift_of(b"ext4 1235") != SHIFT
    assert inode_numbers.shift_of(b"ext4 1234", attempt=1) != SHIFT


@pytest.mark.parametrize("number", NUMBERS)
def test_shifted_numbers_are_apart_from_those_of_the_root_and_of_control_files(
    number: int,
) -> None:
    seen = inode_numbers.shifted(SHIFT, number)
    assert FIRST_OTHER_ID <= seen < FIRST_CONTROL_ID
    assert inode_numbers.shifted(SHIFT, number + 1) != seen
    assert FIRST_OTHER_ID <= inode_numbers.next_to_try(seen) < FIRST_CONTROL_ID
    assert inode_numbers.next_to_try(seen) != seen


def test_numbers_of_the_roots_device_are_kept_below_the_shifted_ones() -> None:
    kept = {number: inode_numbers.is_own(number) for number in (*NUMBERS, FIRST_OTHER_ID)}
    assert kept == {1: False, 12: True, 1 << 56: True, (1 << 64) - 1: False, FIRST_OTHER_ID: False}
    assert not inode_numbers.is_own(ROOT_ID)
    assert inode_numbers.is_own(FIRST_OTHER_ID - 1)


def test_the_number_of_a_mounted_place_depends_on_folder_and_name() -> None:
    places = [(5, b"name"), (6, b"name"), (5, b"other"), (57, b"name"), (5, b"7/name")]
    assert len({inode_numbers.of_place(*place) for place in places}) == len(places)
    assert inode_numbers.of_place(5, b"name") == inode_numbers.of_place(5, b"name")


def test_the_generation_of_a_mount_tells_it_from_the_one_before_and_is_never_0() -> None:
    found = {inode_numbers.generation_of_mount(FIRST_OTHER_ID, mount) for mount in range(100)}
    assert len(found) == 100
    assert all(0 < generation < 1 << 32 for generation in found)
