"""In which order a stale tail ends, on a real file of each file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import commits, recovery_attribute
from mirrorfs.mirror import finalising, sync, writer
from tests.mirror.opened import open_for_clients
from tests.mirror.seeded import BLOCK, MIB, NEW, OLD

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mirror.seeded import Target


@pytest.mark.parametrize("size", [2 * MIB, MIB], ids=["whole", "cut"])
def test_a_clone_is_on_the_disk_and_cut_before_its_attribute_goes(
    target: Target, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Committed as a whole where that is possible, if it is large."""
    if not target.file.abilities.clone:
        assert target.file.abilities.file_system == "ext4"
        return
    done: list[str] = []
    for owner, name in (
        (os, "fdatasync"),
        (os, "fsync"),
        (commits, "commit"),
        (finalising, "cut"),
        (recovery_attribute, "remove"),
    ):
        monkeypatch.setattr(owner, name, noted(getattr(owner, name), done))
    monkeypatch.setattr(finalising, "COMMIT_WORTH_BYTES", MIB)
    path = target.folder / "new"
    path.touch()
    made = open_for_clients(path, target.account)
    made.recovery_list, made.seed_fd = target.file.recovery_list, os.dup(target.file.fd)
    writer.write(made, 0, NEW * BLOCK)
    writer.write(made, BLOCK, OLD * (size - BLOCK))
    done.clear()
    sync.finalise(made)
    os.close(made.fd)
    assert path.read_bytes() == NEW * BLOCK + OLD * (size - BLOCK)
    cuts = ["cut"] if size == MIB else []
    if made.abilities.file_system == "btrfs":
        assert done == [*cuts, "commit", "remove"]
    else:
        assert done == ["fdatasync", *cuts, "remove"]


def noted(function: Callable[..., object], done: list[str]) -> Callable[..., object]:
    def call(*args: object) -> object:
        done.append(function.__name__)
        return function(*args)

    return call
