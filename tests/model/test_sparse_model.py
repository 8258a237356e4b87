"""Writes, truncations, punches, zeroed and copied ranges mixed, on two files: both agree with two
bytearrays, and the map of holes is the one below.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrorfs.backing import syscalls
from tests.model.test_model import (
    MAX_SIZE,
    SLACK_BYTES,
    Model,
    give_back_reservations,
    offsets,
    packed_bytes,
    sizes,
)
from tests.mounted import CLASSES
from tests.posix.space import borders

if TYPE_CHECKING:
    from tests.mounted import Mirror

files = st.integers(0, 1)
operation = st.one_of(
    st.tuples(st.just("zeros"), files, offsets, sizes),
    st.tuples(st.just("same"), files, offsets, sizes),
    st.tuples(st.just("new"), files, offsets, sizes, st.integers(1, 255)),
    st.tuples(st.just("mixed"), files, offsets, sizes, st.integers(0, 2**32)),
    st.tuples(st.just("truncate"), files, offsets),
    st.tuples(st.just("reopen"), files),
    st.tuples(st.just("sync"), files),
    st.tuples(st.just("punch"), files, offsets, sizes),
    st.tuples(st.just("zero"), files, offsets, sizes, st.booleans()),
    st.tuples(st.just("copy"), files, offsets, files, offsets, sizes),
)


class Pair:
    """Two files and what they should hold."""

    def __init__(self, models: list[Model]) -> None:
        self.models = models

    def step(self, kind: str, number: int, *args: int) -> None:
        model = self.models[number]
        if kind == "punch":
            start, end = args[0], args[0] + args[1]
            syscalls.punch_hole(model.fd, start, end)
            blank(model.content, start, min(end, len(model.content)))
        elif kind == "zero":
            start, end, keep_size = args[0], args[0] + args[1], bool(args[2])
            syscalls.zero_range(model.fd, start, end, keep_size)
            if not keep_size:
                model.content.extend(bytes(max(0, end - len(model.content))))
            blank(model.content, start, min(end, len(model.content)))
        elif kind == "copy":
            self.copy(model, args[0], self.models[args[1]], args[2], args[3])
        else:
            model.step(kind, *args)

    def copy(self, source: Model, start: int, target: Model, offset: int, size: int) -> None:
        if source is target and start < offset + size and offset < start + size:
            return  # EINVAL, and another test's
        piece = bytes(source.content[start : start + size])
        done = 0
        while done < len(piece):
            count = os.copy_file_range(
                source.fd, target.fd, size - done, start + done, offset + done
            )
            assert count > 0
            done += count
        assert done == len(piece)
        if piece:
            target.content.extend(bytes(max(0, offset - len(target.content))))
            target.content[offset : offset + len(piece)] = piece


def blank(content: bytearray, start: int, end: int) -> None:
    if start < end:
        content[start:end] = bytes(end - start)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_files_and_their_models_agree(mirror: Mirror) -> None:
    number = 0

    @settings(
        max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(operation, min_size=1, max_size=25))
    def check(steps: list[tuple[str, int]]) -> None:
        nonlocal number
        number += 1
        names = [f"sparse-{number}-{side}" for side in "ab"]
        pair = Pair([Model(mirror.path / name) for name in names])
        for model in pair.models:
            model.open()
        for step in steps:
            pair.step(*step)
            for model in pair.models:
                assert os.pread(model.fd, MAX_SIZE * 2, 0) == model.content
        for model, name in zip(pair.models, names, strict=True):
            backing = mirror.backing / name
            below = os.open(backing, os.O_RDONLY)
            assert borders(model.fd) == borders(below)
            os.close(below)
            os.fsync(model.fd)
            os.close(model.fd)
            assert backing.read_bytes() == model.content
            give_back_reservations(mirror.backing)
            occupied = backing.stat().st_blocks * 512
            assert occupied <= packed_bytes(bytes(model.content)) + SLACK_BYTES
            counted = vars(mirror.account(name))
            assert counted["received_bytes"] == sum(counted[kind] for kind in CLASSES)
            backing.unlink()

    check()
