"""Which parts of a range are made zero, and how; on a real file of each file system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror.discard import discard
from mirrorfs.mirror.open_file import OpenFile
from tests.mirror.opened import open_for_clients

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
def target(loop_fs: Path) -> Iterator[OpenFile]:
    path = loop_fs / "image"
    path.write_bytes(CONTENT)
    file = open_for_clients(path)
    yield file
    os.close(file.fd)


PUNCHED, STORED = "punched", "stored"


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The ranges that are really made zero, and how."""
    found: list[tuple[str, int, int]] = []
    punch, store = OpenFile.punch, OpenFile.store_zeros

    def note_punch(file: OpenFile, start: int, end: int) -> None:
        found.append((PUNCHED, start, end))
        punch(file, start, end)

    def note_zeros(file: OpenFile, start: int, end: int) -> None:
        found.append((STORED, start, end))
        store(file, start, end)

    monkeypatch.setattr(OpenFile, "punch", note_punch)
    monkeypatch.setattr(OpenFile, "store_zeros", note_zeros)
    return found


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        pytest.param(ZEROS_AT, BLOCK, [], id="zeros in a block of data"),
        pytest.param(ZEROS_AT + 1, BLOCK - 1, [], id="in the middle of them"),
        pytest.param(ZEROS_AT - 1, BLOCK, [(STORED, ZEROS_AT - 1, BLOCK)], id="one byte more"),
        pytest.param(ZEROS_AT, 2 * BLOCK, [(PUNCHED, BLOCK, 2 * BLOCK)], id="and a whole block"),
        pytest.param(0, BLOCK, [(PUNCHED, 0, BLOCK)], id="a whole block"),
        pytest.param(
            BLOCK + 5,
            3 * BLOCK + 5,
            [
                (STORED, BLOCK + 5, 2 * BLOCK),
                (PUNCHED, 2 * BLOCK, 3 * BLOCK),
                (STORED, 3 * BLOCK, 3 * BLOCK + 5),
            ],
            id="ragged at both ends",
        ),
        pytest.param(LAST + 5, LAST + 9, [(STORED, LAST + 5, LAST + 9)], id="in one block"),
        pytest.param(
            LAST + 9,
            LAST + BLOCK,
            [(STORED, LAST + 9, LAST + BLOCK)],
            id="up to the end of the file",
        ),
        pytest.param(
            LAST + 9,
            LAST + 2 * BLOCK,
            [(STORED, LAST + 9, LAST + BLOCK), (PUNCHED, LAST + BLOCK, LAST + 2 * BLOCK)],
            id="and beyond it",
        ),
        pytest.param(LAST, LAST + 4, [], id="zeros that begin a block of data"),
        pytest.param(
            3 * BLOCK, LAST + 4, [(PUNCHED, 3 * BLOCK, LAST)], id="and the whole one before"
        ),
    ],
)
def test_ragged_ends_that_are_zero_already_are_not_written_again(
    target: OpenFile,
    changes: list[tuple[str, int, int]],
    start: int,
    end: int,
    expected: list[tuple[str, int, int]],
) -> None:
    before = os.fstat(target.fd)
    discard(target, start, end, True)
    assert changes == expected
    content = bytearray(CONTENT)
    content[start:end] = bytes(min(end, len(content)) - start)
    assert os.pread(target.fd, 6 * BLOCK, 0) == content
    assert os.fstat(target.fd).st_mtime_ns > before.st_mtime_ns
