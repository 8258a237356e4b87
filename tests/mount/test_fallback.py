"""A mount without the sparse operations, because the extension is missing."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.backing import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

BLOCK = 4096
DATA = b"\xa5" * BLOCK


def extras(mirror: Mirror) -> dict[str, Any]:
    config = json.loads((mirror.path / ".mirrorfs/config.json").read_bytes())
    found: dict[str, Any] = config["extras"]
    return found


@pytest.fixture
def without(loop_fs: Path, mount_mirror: Callable[..., Mirror], no_extension: str) -> Mirror:
    return mount_mirror(loop_fs, PYTHONPATH=no_extension)


def refuses_sparse_operations(mirror: Mirror) -> None:
    """The kernel and the C library then do the next best thing."""
    mirror.write("file", 0, DATA)
    os.truncate(mirror.path / "file", 64 * BLOCK)
    fd = os.open(mirror.path / "file", os.O_RDWR)
    try:
        with pytest.raises(OSError) as caught:
            syscalls.punch_hole(fd, 0, BLOCK)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 64 * BLOCK
        assert os.copy_file_range(fd, fd, BLOCK, 0, 8 * BLOCK) == BLOCK
        assert os.pread(fd, BLOCK, 8 * BLOCK) == DATA
    finally:
        os.close(fd)
    assert (mirror.backing / "file").stat().st_blocks * 512 <= 4 * BLOCK


def test_a_mount_works_without_the_extension(without: Mirror) -> None:
    refuses_sparse_operations(without)
    found = extras(without)
    for name in (
        "sparse_operations",
        "umask_by_default_acl",
        "writes_without_asking",
        "direct_writes",
    ):
        assert not found[name]["on"]
        assert found[name]["reason"] == "pyfuse3 was imported before it"
    lines = [line for line in without.log.read_text().splitlines() if "sparse operations" in line]
    assert len(lines) == 1


def test_all_optional_features_are_on_where_the_machine_allows_them(mirror: Mirror) -> None:
    assert {name: extra["on"] for name, extra in extras(mirror).items()} == {
        "sparse_operations": True,
        "umask_by_default_acl": True,
        "writes_without_asking": True,
        "append_where_the_end_is": True,
        "direct_writes": True,
        "readahead": True,
        "seeds": True,
    }
