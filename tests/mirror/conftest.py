"""What several tests of the mirror share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import syscalls
from tests.mirror.opened import BIG, BLOCK, BLOCKS
from tests.mirror.seeded import Target, opened_target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def target(loop_fs: Path) -> Iterator[Target]:
    """A file of 2 MiB of old data on each file system; some files of tests have another target."""
    with opened_target(loop_fs) as made:
        yield made


@pytest.fixture
def old_file(loop_fs: Path) -> Iterator[int]:
    """Data in all blocks but for those with an odd number in the first half."""
    fd = os.open(loop_fs / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"\xa5" * BIG, 0)
    for number in range(1, BLOCKS // 2, 2):
        syscalls.punch_hole(fd, number * BLOCK, (number + 1) * BLOCK)
    yield fd
    os.close(fd)
