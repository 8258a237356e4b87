"""Stamps that clients move by what they do to a file besides its content."""

from __future__ import annotations

import itertools

from mirrorfs.backing.digest_file import Stamp
from mirrorfs.fs import restamps
from mirrorfs.fs.restamps import Restamps

KEY, OTHER = (1, 2, 3), (1, 2, 4)
S = [Stamp(1 << 20, 5, time) for time in range(40)]


def chain(*times: int) -> Restamps:
    made = Restamps()
    for before, after in itertools.pairwise(times):
        made.note(KEY, S[before], S[after])
    return made


def test_each_stamp_from_before_becomes_the_last() -> None:
    moved = chain(0, 1, 4)
    assert [moved.resolve(KEY, S[n]) for n in (0, 1, 4)] == [S[4]] * 3
    assert moved.resolve(KEY, S[2]) == S[2]
    assert moved.resolve(OTHER, S[0]) == S[0]


def test_a_change_in_between_ends_what_was_known() -> None:
    moved = chain(0, 1)
    moved.note(KEY, S[2], S[3])
    assert moved.resolve(KEY, S[0]) == S[0]
    assert moved.resolve(KEY, S[2]) == S[3]


def test_another_size_is_another_content() -> None:
    moved = chain(0, 1)
    moved.note(KEY, S[1], S[2]._replace(size=7))
    moved.note(KEY, S[1], S[1])
    assert moved.resolve(KEY, S[0]) == S[1]


def test_what_is_noted_meanwhile_is_kept() -> None:
    moved = chain(0, 1)
    after = moved.resolve(KEY, S[0])
    moved.note(KEY, S[1], S[2])
    moved.drop(KEY, after)
    assert moved.keys() == [KEY]
    moved.drop(KEY, S[2])
    assert moved.keys() == []
    moved.drop(KEY)


def test_only_so_many_are_kept() -> None:
    moved = chain(*range(40))
    assert moved.resolve(KEY, S[39 - restamps._MAX_STAMPS + 1]) == S[39]
    assert moved.resolve(KEY, S[0]) == S[0]
