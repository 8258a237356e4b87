"""Tools that write a header, close the file, and open it again for the rest: what lies below is the
basis of that, too. Nobody sees it, and it goes in a moment where nobody comes back.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import recovery_attribute
from tests.conftest import image_mounted, loop_mounted, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mirror

MIB = 1 << 20
BLOCK = 4096
SIZE = 16 * MIB
HEADER = 100_000  # ends within a block
CONTENT = os.urandom(SIZE)


def written(mirror: Mirror) -> int:
    return int(mirror.counters().written_bytes)


def write_header(path: Path, content: bytes = CONTENT[:HEADER]) -> None:
    """As qemu-img does for most of its formats: the file is emptied by one descriptor, and its
    header written and synced by the next.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, content, 0)
    os.fdatasync(fd)
    os.close(fd)


def write_rest(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    for start in range(HEADER, SIZE, MIB):
        os.pwrite(fd, CONTENT[start : start + MIB], start)
    os.close(fd)


def is_settled(backing: Path) -> bool:
    return recovery_attribute.NAME.decode() not in os.listxattr(backing)


def wait_until_settled(backing: Path) -> None:
    for _ in range(1000):
        if is_settled(backing):
            return
        time.sleep(0.02)
    pytest.fail("it is not settled by itself")


@pytest.fixture
def copied(mirror: Mirror) -> Mirror:
    """A mount with a file in it."""
    (mirror.path / "image").write_bytes(CONTENT)
    return mirror


@pytest.fixture
def copied_on_ext4(mount_mirror: Callable[..., Mirror], ext4_folder: Path) -> Mirror:
    """For what does not depend on the file system."""
    mirror = mount_mirror(ext4_folder)
    (mirror.path / "image").write_bytes(CONTENT)
    return mirror


def test_the_rest_is_compared(copied: Mirror) -> None:
    path, before = copied.path / "image", written(copied)
    write_header(path)
    assert path.read_bytes() == CONTENT[:HEADER]
    write_rest(path)
    assert written(copied) == before
    assert path.read_bytes() == CONTENT
    assert (copied.backing / "image").read_bytes() == CONTENT
    assert is_settled(copied.backing / "image")


def test_a_shell_that_appends_by_the_next_command_is_known(copied: Mirror) -> None:
    path, before = copied.path / "image", written(copied)
    path.write_bytes(CONTENT[:HEADER])
    with path.open("ab") as file:
        file.write(CONTENT[HEADER:])
    assert written(copied) == before
    assert (copied.backing / "image").read_bytes() == CONTENT


def test_a_file_to_which_nobody_comes_back_is_settled_by_itself(copied_on_ext4: Mirror) -> None:
    path, backing = copied_on_ext4.path / "image", copied_on_ext4.backing / "image"
    path.write_bytes(b"short\n")
    assert path.read_bytes() == b"short\n"
    assert path.stat().st_blocks * 512 <= 64 << 10
    wait_until_settled(backing)
    assert backing.read_bytes() == path.read_bytes() == b"short\n"
    assert not (copied_on_ext4.backing / ".mirrorfs/unsettled").stat().st_size


def sync_it(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def link_it(path: Path) -> None:
    os.link(path, path.with_name("link"))


def move_it(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.with_name("moved").rename(path)


def stamp_it(path: Path) -> None:
    os.utime(path, ns=(10**18, 10**18))


def ask_for_space(path: Path) -> None:
    os.statvfs(path)


@pytest.mark.parametrize("act", [sync_it, link_it, move_it, stamp_it, ask_for_space])
def test_it_is_settled_at_once_for_who_needs_it(
    copied_on_ext4: Mirror, act: Callable[[Path], None]
) -> None:
    path, backing = copied_on_ext4.path / "image", copied_on_ext4.backing / "image"
    write_header(path)
    act(path)
    assert is_settled(backing)
    assert backing.read_bytes() == CONTENT[:HEADER]


def test_it_is_settled_by_the_end_of_the_mount(copied_on_ext4: Mirror) -> None:
    write_header(copied_on_ext4.path / "image")
    copied_on_ext4.umount()
    assert is_settled(copied_on_ext4.backing / "image")
    assert (copied_on_ext4.backing / "image").read_bytes() == CONTENT[:HEADER]


def test_a_file_that_was_emptied_with_a_sync_is_below_what_clients_see(
    copied_on_ext4: Mirror,
) -> None:
    """Only who has come back to a file is likely to do so once more."""
    fd = os.open(copied_on_ext4.path / "image", os.O_WRONLY | os.O_TRUNC)
    os.pwrite(fd, b"short\n", 0)
    os.fsync(fd)
    assert (copied_on_ext4.backing / "image").read_bytes() == b"short\n"
    os.close(fd)


def test_half_of_a_copy_is_settled_when_it_is_closed(copied_on_ext4: Mirror) -> None:
    (copied_on_ext4.path / "image").write_bytes(CONTENT[: SIZE // 2])
    assert (copied_on_ext4.backing / "image").read_bytes() == CONTENT[: SIZE // 2]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_header_that_was_synced_survives_a_power_cut(
    mount_mirror: Callable[..., Mirror], tmp_path: Path, kind: str
) -> None:
    """The disk is copied right after fdatasync. What was written to other files, and synced, must
    not take the mark along; what comes after is lost as a whole or in part.
    """
    header, size = os.urandom(HEADER), 5 * MIB
    with loop_mounted(kind, tmp_path, 320) as point:
        backing = point / "backing"
        backing.mkdir()
        (backing / "image").write_bytes(CONTENT)
        os.sync()
        mirror = mount_mirror(backing)
        path = mirror.path / "image"
        os.close(os.open(path, os.O_RDWR | os.O_TRUNC))
        with path.open("r+b", buffering=0) as file:
            file.truncate(size)
            file.write(header)
            os.fdatasync(file.fileno())
            assert not is_settled(backing / "image")
            with (mirror.path / "other").open("wb", buffering=0) as other:
                other.write(b"other")
                os.fsync(other.fileno())
            image = tmp_path / f"{kind}.img"
            run("cp", "--sparse=always", image, tmp_path / "after.img")
            file.write(CONTENT[HEADER : 2 * HEADER])
        mirror.umount()
    with image_mounted(tmp_path / "after.img", tmp_path / "after") as after:
        again = mount_mirror(after / "backing")
        assert again.read("image") == header.ljust(size, b"\0")
        assert again.read("other") == b"other"
        again.umount()


DISK_BLOCK, FOOTER = 2 * MIB, b"footer" * 86  # as in a VHD


def write_as_vpc(path: Path, end: int) -> bytes:
    """Each block behind the footer that follows it; what the file holds then."""
    content = bytearray(CONTENT[:HEADER])
    fd = os.open(path, os.O_RDWR)
    place = HEADER
    while place < end:
        os.pwrite(fd, FOOTER, place + DISK_BLOCK)
        before = FOOTER if place > HEADER else b""
        seen = before.ljust(DISK_BLOCK, b"\0") + FOOTER
        assert os.pread(fd, DISK_BLOCK + MIB, place) == seen
        assert os.lseek(fd, place + MIB, os.SEEK_DATA) >= place + DISK_BLOCK - BLOCK
        half = DISK_BLOCK // 2
        os.pwrite(fd, CONTENT[place : place + half], place)
        assert os.pread(fd, DISK_BLOCK, place) == CONTENT[place : place + half] + bytes(half)
        os.pwrite(fd, CONTENT[place + half : place + DISK_BLOCK], place + half)
        content += CONTENT[place : place + DISK_BLOCK]
        place += DISK_BLOCK
    os.close(fd)
    return bytes(content + FOOTER)


def test_a_block_behind_its_footer_is_compared(copied: Mirror) -> None:
    for _ in range(2):
        before = written(copied)
        write_header(copied.path / "image")
        content = write_as_vpc(copied.path / "image", 12 * MIB)
        assert copied.read("image") == (copied.backing / "image").read_bytes() == content
    assert written(copied) - before <= 6 * 2 * BLOCK  # where a footer was, and is
