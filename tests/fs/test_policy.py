"""What is done with files, by the options of the mount and the abilities of the file system."""

from __future__ import annotations

import pytest

from mirrorfs import options
from mirrorfs.backing.probe import Abilities
from mirrorfs.fs.policy import Policy


def abilities(unit_bytes: int = 4096, clone: bool = True) -> Abilities:
    return Abilities("xfs", unit_bytes, punch=True, seek_proven=True, clone=clone)


def policy(words: str = "", keeps_list: bool = True) -> Policy:
    return Policy(options.parse(words), keeps_list)


@pytest.mark.parametrize(
    ("words", "punch", "skip"),
    [
        ("", True, True),
        ("zeros=keep", False, True),
        ("unchanged=write", True, False),
        ("zeros=keep,unchanged=write", False, False),
    ],
)
def test_options_say_whether_zeros_become_holes_and_what_is_unchanged_is_skipped(
    words: str, punch: bool, skip: bool
) -> None:
    rules = policy(words).rules(abilities())
    assert (rules.punch, rules.skip) == (punch, skip)


@pytest.mark.parametrize(
    ("words", "unit_bytes", "expected"),
    [
        ("", 4096, 4096),
        ("", 65536, 65536),
        ("block=auto", 8192, 8192),
        ("block=64k", 4096, 65536),
        ("block=4k", 16384, 16384),
    ],
)
def test_a_block_is_never_smaller_than_the_allocation_unit(
    words: str, unit_bytes: int, expected: int
) -> None:
    assert policy(words).rules(abilities(unit_bytes)).block_bytes == expected


@pytest.mark.parametrize(
    ("words", "keeps_list", "clone", "expected"),
    [
        ("", True, True, True),
        ("", True, False, False),
        ("", False, True, False),
        ("basis=self", True, True, False),
        ("basis=off", True, True, False),
        ("unchanged=write", True, True, False),
    ],
)
def test_a_new_file_gets_a_clone_where_it_can_be_compared_and_recovered(
    words: str, keeps_list: bool, clone: bool, expected: bool
) -> None:
    assert policy(words, keeps_list).clones_seeds(abilities(clone=clone)) is expected
