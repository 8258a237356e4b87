"""Which parts of a range are punched; on a real file of each file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import syscalls
from mirrorfs.mirror.counters import Account
from mirrorfs.mirror.discard import discard
from mirrorfs.mirror.file import MirrorFile, PendingError
from tests.mirror.opened import open_mirrored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 4096
ZEROS_AT = 1000  # in the first block, up to its end
LAST = 4 * BLOCK  # a block that begins with a few zeros
CONTENT = (
    b"\xa5" * ZEROS_AT
    + bytes(BLOCK - ZEROS_AT)
    + b"\xa5" * (LAST - BLOCK)
    + bytes(4)
    + b"\xa5" * (BLOCK - 4)
)


@pytest.fixture
def target(loop_fs: Path) -> Iterator[MirrorFile]:
    path = loop_fs / "image"
    path.write_bytes(CONTENT)
    file = open_mirrored(path)
    yield file
    os.close(file.fd)


@pytest.fixture
def punched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges that are really punched."""
    ranges: list[tuple[int, int]] = []
    punch = syscalls.punch_hole

    def note(fd: int, start: int, end: int) -> None:
        ranges.append((start, end))
        punch(fd, start, end)

    monkeypatch.setattr(syscalls, "punch_hole", note)
    return ranges


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        pytest.param(ZEROS_AT, BLOCK, [], id="zeros in a block of data"),
        pytest.param(ZEROS_AT + 1, BLOCK - 1, [], id="in the middle of them"),
        pytest.param(ZEROS_AT - 1, BLOCK, [(ZEROS_AT - 1, BLOCK)], id="one byte more"),
        pytest.param(ZEROS_AT, 2 * BLOCK, [(BLOCK, 2 * BLOCK)], id="and a whole block"),
        pytest.param(0, BLOCK, [(0, BLOCK)], id="a whole block"),
        pytest.param(
            BLOCK + 5,
            3 * BLOCK + 5,
            [(BLOCK + 5, 2 * BLOCK), (2 * BLOCK, 3 * BLOCK), (3 * BLOCK, 3 * BLOCK + 5)],
            id="ragged at both ends",
        ),
        pytest.param(LAST, LAST + 4, [], id="zeros that begin a block of data"),
        pytest.param(3 * BLOCK, LAST + 4, [(3 * BLOCK, LAST)], id="and the whole one before"),
    ],
)
def test_ragged_ends_that_are_zero_already_are_not_written_again(
    target: MirrorFile,
    punched: list[tuple[int, int]],
    start: int,
    end: int,
    expected: list[tuple[int, int]],
) -> None:
    before = os.fstat(target.fd)
    discard(target, PendingError(), start, end, True, Account())
    assert punched == expected
    content = bytearray(CONTENT)
    content[start:end] = bytes(end - start)
    assert os.pread(target.fd, 6 * BLOCK, 0) == content
    assert os.fstat(target.fd).st_mtime_ns > before.st_mtime_ns
