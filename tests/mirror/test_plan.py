"""The plan alone: bytes in, steps out, compared with a plain restatement of the rules."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfs.mirror.plan import Kind, Rules, Step, is_zero, plan

BLOCK = 4096
DATA, OTHER, ZERO = b"d" * BLOCK, b"o" * BLOCK, bytes(BLOCK)
HEADED = bytes(10) + b"x" * (BLOCK - 10)

block = st.sampled_from([DATA, OTHER, ZERO, HEADED, ZERO[:-1] + b"\1"])


def test_equal_blocks_are_unchanged() -> None:
    assert plan(DATA * 3, DATA * 3, 0, Rules()) == [Step(Kind.UNCHANGED, 0, 3 * BLOCK)]


def test_zero_blocks_become_a_hole_even_where_zeros_are_stored() -> None:
    assert plan(ZERO * 2, ZERO * 2, BLOCK, Rules()) == [Step(Kind.HOLE, BLOCK, 3 * BLOCK)]


def test_neighbours_of_one_kind_are_joined() -> None:
    new, old = DATA * 2 + ZERO + OTHER * 2, DATA * 2 + DATA + DATA * 2
    assert plan(new, old, 0, Rules()) == [
        Step(Kind.UNCHANGED, 0, 2 * BLOCK),
        Step(Kind.HOLE, 2 * BLOCK, 3 * BLOCK),
        Step(Kind.WRITE, 3 * BLOCK, 5 * BLOCK),
    ]


def test_a_short_last_block_of_zeros_is_a_hole() -> None:
    steps = plan(DATA + bytes(100), None, 0, Rules())
    assert steps == [Step(Kind.WRITE, 0, BLOCK), Step(Kind.HOLE, BLOCK, BLOCK + 100)]


@pytest.mark.parametrize("rules", [Rules(punch=False), Rules(punch=False, skip=False)])
def test_zeros_are_data_when_the_rule_is_off(rules: Rules) -> None:
    assert plan(ZERO, None, 0, rules) == [Step(Kind.WRITE, 0, BLOCK)]


@given(new=st.lists(block, min_size=1, max_size=9), data=st.data(), punch=st.booleans())
def test_every_block_gets_what_the_rules_say(
    new: list[bytes], data: st.DataObject, punch: bool
) -> None:
    old = data.draw(st.none() | st.lists(block, max_size=len(new)))
    cut = data.draw(st.integers(0, BLOCK - 1))
    content = b"".join(new)[: len(new) * BLOCK - cut] or b"x"
    below = None if old is None else b"".join(old)[: len(content)]
    steps = plan(content, below, 0, Rules(punch=punch))
    assert [step.start for step in steps][1:] == [step.end for step in steps][:-1]
    assert (steps[0].start, steps[-1].end) == (0, len(content))
    assert all(a.kind is not b.kind for a, b in itertools.pairwise(steps))
    for start in range(0, len(content), BLOCK):
        piece = content[start : start + BLOCK]
        (kind,) = (step.kind for step in steps if step.start <= start < step.end)
        if punch and not piece.strip(b"\0"):
            assert kind is Kind.HOLE
        elif below is not None and bytes(below[start : start + len(piece)]) == piece:
            assert kind is Kind.UNCHANGED
        else:
            assert kind is Kind.WRITE


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_zeros_are_found_at_any_size(size: int) -> None:
    assert is_zero(bytes(size))
    if size:
        assert not is_zero(bytes(size - 1) + b"\1")
