"""New data at the end of a file: what is taken without waiting, and what is left to the writer; on
a real file of each file system.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror import fresh
from mirrorfs.mirror.counters import Account
from mirrorfs.mirror.file import MirrorFile, PendingError
from tests.mirror.opened import KEY, open_mirrored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 4096
DATA = b"\xa5" * BLOCK


@pytest.fixture
def target(loop_fs: Path) -> Iterator[MirrorFile]:
    path = loop_fs / "image"
    path.write_bytes(DATA)
    file = open_mirrored(path)
    yield file
    os.close(file.fd)


def extend(file: MirrorFile, offset: int, data: bytes, account: Account) -> int:
    """Tried within a tick of the clock that stamps files, as most writes of a copy are: moving a
    time may wait for the journal.
    """
    for _ in range(50):
        os.utime(file.fd)
        taken = fresh.extend(file, PendingError(), offset, data, account)
        if taken:
            return taken
    return 0


def test_xfs_takes_new_data_at_the_end_and_the_others_leave_it(target: MirrorFile) -> None:
    account = Account()
    taken = extend(target, BLOCK, DATA * 8, account)
    if target.abilities.file_system != "xfs":
        assert not target.abilities.no_wait_writes
        assert taken == 0
        return
    assert taken == 8 * BLOCK
    assert os.pread(target.fd, 10 * BLOCK, 0) == DATA * 9
    counted = account.file(KEY)
    assert counted["received_bytes"] == counted["written_bytes"] == 8 * BLOCK
    assert counted["write_requests"] == 1
    assert not target.calm


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        pytest.param(0, DATA, id="over what is there"),
        pytest.param(2 * BLOCK, DATA, id="behind a gap"),
        pytest.param(BLOCK, DATA + bytes(BLOCK), id="with a block of zeros"),
        pytest.param(BLOCK - 1, DATA, id="in the middle of a block"),
        pytest.param(BLOCK, b"", id="nothing"),
    ],
)
def test_anything_else_is_left_to_the_writer(target: MirrorFile, offset: int, data: bytes) -> None:
    account = Account()
    target.abilities = replace(target.abilities, no_wait_writes=True)
    assert extend(target, offset, data, account) == 0
    assert os.pread(target.fd, 10 * BLOCK, 0) == DATA
    assert not any(account.file(KEY).values())


def test_a_file_at_which_somebody_works_is_left_alone(target: MirrorFile) -> None:
    target.abilities = replace(target.abilities, no_wait_writes=True)
    with target.lock:
        assert extend(target, BLOCK, DATA, Account()) == 0
