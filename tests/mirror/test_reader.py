"""Reading while the file changes, and where SEEK_DATA errs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.backing import holes
from mirrorfs.mirror.view import View

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.conftest import Mirror

BLOCK = 4096


def test_what_is_appended_meanwhile_is_never_read_as_zeros(
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


def test_the_last_block_of_the_largest_file(
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
