"""Signals for clients whose requests take long."""

from __future__ import annotations

from mirrorfs.fuse.interrupts import Interrupts


def test_a_signal_is_noted_for_the_request_that_it_is_for() -> None:
    interrupts = Interrupts()
    interrupts.watch(5)
    interrupts.watch(6)
    assert interrupts.note(5)
    assert interrupts.is_interrupted(5)
    assert not interrupts.is_interrupted(6)
    assert interrupts.note(5)  # the kernel may say so twice
    assert interrupts.is_interrupted(5)


def test_a_signal_for_a_request_that_is_not_watched_is_not_ours() -> None:
    interrupts = Interrupts()
    assert not interrupts.note(5)
    interrupts.watch(5)
    assert not interrupts.is_interrupted(5)
    interrupts.note(5)
    interrupts.forget(5)
    assert not interrupts.is_interrupted(5)
    assert not interrupts.note(5)


def test_a_request_with_a_number_that_is_used_again_starts_without_a_signal() -> None:
    interrupts = Interrupts()
    interrupts.watch(5)
    interrupts.note(5)
    interrupts.forget(5)
    interrupts.watch(5)
    assert not interrupts.is_interrupted(5)
