"""The append fast path: new data at the end of a file in memory is taken, and all else left to the
writer.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror import append_fast_path
from tests.mirror.opened import KEY, open_for_clients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.mirror.open_file import OpenFile

BLOCK = 4096
DATA = b"\xa5" * BLOCK


@pytest.fixture
def target() -> Iterator[OpenFile]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "image"
        path.write_bytes(DATA)
        file = open_for_clients(path)
        assert file.abilities.is_memory
        yield file
        os.close(file.fd)


@pytest.mark.parametrize("size", [BLOCK, 8 * BLOCK, 10_000, 1])
def test_new_data_at_the_end_is_taken_and_counted(target: OpenFile, size: int) -> None:
    assert append_fast_path.extend(target, BLOCK, (DATA * 8)[:size]) == size
    assert os.pread(target.fd, 10 * BLOCK, 0) == DATA + (DATA * 8)[:size]
    counted = target.account.file(KEY)
    assert counted["received_bytes"] == counted["written_bytes"] == size
    assert counted["write_requests"] == 1
    assert not target.last_was_noop


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        pytest.param(0, DATA, id="over what is there"),
        pytest.param(2 * BLOCK, DATA, id="behind a gap"),
        pytest.param(BLOCK, DATA + bytes(BLOCK), id="with a block of zeros"),
        pytest.param(BLOCK, DATA + bytes(7), id="with the beginning of one"),
        pytest.param(BLOCK - 1, DATA, id="before the end"),
        pytest.param(BLOCK, b"", id="nothing"),
    ],
)
def test_data_elsewhere_and_zeros_are_left_to_the_writer(
    target: OpenFile, offset: int, data: bytes
) -> None:
    assert append_fast_path.extend(target, offset, data) == 0
    assert os.pread(target.fd, 10 * BLOCK, 0) == DATA
    assert not any(target.account.file(KEY).values())


def test_a_file_in_a_worker_threads_hands_is_left_to_the_writer(target: OpenFile) -> None:
    with target.lock:
        assert append_fast_path.extend(target, BLOCK, DATA) == 0


def test_a_file_on_a_disk_is_left_to_the_writer(loop_fs: Path) -> None:
    path = loop_fs / "image"
    path.write_bytes(DATA)
    file = open_for_clients(path)
    try:
        assert append_fast_path.extend(file, BLOCK, DATA) == 0
    finally:
        os.close(file.fd)
