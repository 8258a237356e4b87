"""What is inherited from a default ACL: as computed, and as a file system does it."""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import acl
from tests.commands import run

if TYPE_CHECKING:
    from pathlib import Path

USER_OBJ, GROUP_OBJ, MASK, OTHER = 1, 4, 0x10, 0x20


def permissions(value: bytes) -> dict[int, int]:
    """Of the entries that have no id, by tag."""
    return {tag: bits for tag, bits, _ in struct.iter_unpack("<HHI", value[4:])}


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o640, 0o604, 0o400, 0])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize(
    "spec",
    [
        "u::rwx,g::rwx,o::rwx",
        "u::rwx,g::r-x,o::---",
        "u::rw-,g::rwx,o::r--,m::rw-",
        "u::rwx,u:1234:rwx,g::r-x,m::rwx,o::r-x",
        "u::rwx,u:1234:rw-,g::rwx,g:1235:--x,m::r--,o::---",
    ],
)
def test_the_inherited_acl_is_that_of_the_file_system(
    ext4_folder: Path, spec: str, kind: str, mode: int
) -> None:
    run("setfacl", "-d", "-m", spec, ext4_folder)
    default = os.getxattr(ext4_folder, acl.DEFAULT)
    path = ext4_folder / "made"
    before = os.umask(0o077)  # does not count where there is a default ACL
    try:
        if kind == "file":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        else:
            path.mkdir(mode)
    finally:
        os.umask(before)
    inherited = acl.inherit(default, mode)
    found = permissions(inherited)
    made = stat.S_IMODE(path.stat().st_mode)
    assert made >> 6 == found[USER_OBJ]
    assert made >> 3 & 7 == found.get(MASK, found[GROUP_OBJ])
    assert made & 7 == found[OTHER]
    try:
        assert os.getxattr(path, acl.ACCESS) == inherited
    except OSError:  # a file system keeps none that says no more than the mode
        assert found.keys() == {USER_OBJ, GROUP_OBJ, OTHER}
    assert ("system.posix_acl_access" in os.listxattr(path)) == (MASK in found)
