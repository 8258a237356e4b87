"""What clients see of a file: while it changes, where SEEK_DATA errs, and with a stale tail; a real
file of each file system, and a bytearray.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrorfs.backing import holes
from mirrorfs.mirror.view import View
from tests.mirror.opened import BIG, BLOCK, BLOCKS, bare_tail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirrorfs.mirror.stale_tail import StaleTail
    from tests.mounted import Mirror

places = st.integers(0, BLOCKS).map(lambda n: n * BLOCK) | st.integers(0, BIG)
lengths = st.integers(0, 8).map(lambda n: n * BLOCK) | st.integers(0, BIG * 2)


def test_data_appended_while_a_hole_is_looked_for_is_never_read_as_zeros(
    ext4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ext4_folder / "file"
    path.touch()
    os.truncate(path, BLOCK)
    ask = holes.next_data

    def ask_then_append(fd: int, start: int) -> int | None:
        answer = ask(fd, start)
        with path.open("ab") as file:
            file.write(b"x" * BLOCK)
        return answer

    monkeypatch.setattr(holes, "next_data", ask_then_append)
    with path.open("rb") as file:
        got = View(file.fileno(), is_seek_trusted=True).read(0, 4 * BLOCK)
    assert got == path.read_bytes()[: len(got)]


def test_the_last_block_of_the_largest_file_is_read_and_written(
    file_systems: Callable[[str], Path], tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    """xfs holds files up to 2^63 - 1 bytes, and does not find the data in their last block."""
    folder = file_systems("xfs") / tmp_path.name
    folder.mkdir()
    mirror = mount_mirror(folder)
    end = (1 << 63) - BLOCK
    mirror.write("file", end - 2, b"abc")
    mirror.write("file", end - BLOCK, bytes(BLOCK))
    mirror.write("file", end + 9, b"d")
    for path in (mirror.path, mirror.backing):
        with (path / "file").open("rb") as file:
            assert os.pread(file.fileno(), 10, end - 1) == b"\0c" + bytes(8)
            assert os.pread(file.fileno(), 10, end) == b"c" + bytes(8) + b"d"


def seek(tail: StaleTail, fd: int, offset: int, whence: int, trusted: bool) -> int | None:
    """None where it is ENXIO."""
    try:
        return View(fd, trusted, tail).seek(offset, whence)
    except OSError as exc:
        assert exc.errno == errno.ENXIO
        return None


@pytest.mark.parametrize("trusted", [True, False])
def test_reads_and_seeks_over_a_stale_tail_agree_with_a_bytearray(
    old_file: int, trusted: bool
) -> None:
    below = os.pread(old_file, BIG, 0)
    assert len(below) == BIG

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        valid=places,
        more=lengths,
        gap=st.none() | st.tuples(places, places),
        requests=st.lists(st.tuples(places, lengths), max_size=8),
    )
    def check(
        valid: int, more: int, gap: tuple[int, int] | None, requests: list[tuple[int, int]]
    ) -> None:
        tail = bare_tail(valid, valid + more)
        model = below[:valid] + bytes(more)
        if gap is not None and gap[0] < gap[1] < valid:
            tail.gap = gap
            model = model[: gap[0]] + bytes(gap[1] - gap[0]) + model[gap[1] :]
        assert View(old_file, trusted, tail).read(0, len(model) + BLOCK) == model
        for offset, length in [*requests, (len(model), 1), (len(model) + 1, BLOCK)]:
            got = View(old_file, trusted, tail).read(offset, length)
            assert got == model[offset : offset + length]
            check_seeks(tail, offset)

    def check_seeks(tail: StaleTail, offset: int) -> None:
        data = seek(tail, old_file, offset, os.SEEK_DATA, trusted)
        hole = seek(tail, old_file, offset, os.SEEK_HOLE, trusted)
        if offset >= tail.logical_size:
            assert data is hole is None
            return
        # As a file answers that ends at the valid length, with a hole from there to its size, and
        # one that is the gap.
        found = list(holes.data_ranges(old_file, 0, tail.valid_length))
        if not trusted:
            found = [(0, tail.valid_length)]
        first, last = tail.gap or (0, 0)
        around = [
            part
            for start, end in found
            for part in ((start, min(end, first)), (max(start, last), end))
        ]
        alone = [(start, end) for start, end in around if start < end > offset]
        if not alone:
            assert (data, hole) == (None, offset)
            return
        start, end = alone[0]
        assert data == max(start, offset)
        assert hole == (offset if offset < start else end)

    check()


def test_a_failed_seek_reveals_nothing_of_the_old_blocks(old_file: int) -> None:
    tail = bare_tail(2 * BLOCK, 4 * BLOCK)
    for offset in (BLOCK, 2 * BLOCK, 4 * BLOCK, 30 * BLOCK, -1):
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with contextlib.suppress(OSError):
                assert View(old_file, True, tail).seek(offset, whence) <= 4 * BLOCK
    with pytest.raises(OSError) as caught:
        View(old_file, True, tail).seek(-1, os.SEEK_DATA)
    assert caught.value.errno == errno.ENXIO
