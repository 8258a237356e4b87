"""Tools that write a header, close the file, and open it again for the rest: what lies below is the
basis of that, too. No client sees it, and it is finalised in a moment where no writer comes back.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import recovery_attribute
from tests.commands import run, wait_for
from tests.disks import image_mounted, loop_mounted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
BLOCK = 4096
SIZE = 16 * MIB
HEADER = 100_000  # ends within a block
COMES_BACK_SECONDS = 1.5  # less than a mount waits for a writer that has closed a file
ATTEMPTS = 20
CONTENT = os.urandom(SIZE)


def written(mirror: Mirror) -> int:
    return int(mirror.counters().written_bytes)


def write_header(path: Path, content: bytes = CONTENT[:HEADER]) -> float:
    """As qemu-img does for most of its formats: the file is emptied by one descriptor, and its
    header written and synced by the next. Returns when that is closed, on the monotonic clock.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, content, 0)
    os.fdatasync(fd)
    closed = time.monotonic()
    os.close(fd)
    return closed


def write_rest(path: Path) -> float:
    """Returns when the file was opened again."""
    fd = os.open(path, os.O_RDWR)
    opened = time.monotonic()
    for start in range(HEADER, SIZE, MIB):
        os.pwrite(fd, CONTENT[start : start + MIB], start)
    os.close(fd)
    return opened


def written_in_time(mirror: Mirror, write: Callable[[], float]) -> int:
    """How many bytes reached the disk when `write` wrote in two steps. It returns how long it was
    between them: more than the mount waits for a writer proves nothing, and it is called again.
    """
    for _ in range(ATTEMPTS):
        before = written(mirror)
        if write() < COMES_BACK_SECONDS:
            return written(mirror) - before
    pytest.fail("the machine is too busy for a writer that comes back")


def is_finalised(backing: Path) -> bool:
    return recovery_attribute.NAME.decode() not in os.listxattr(backing)


@pytest.fixture
def copied(mirror: Mirror) -> Mirror:
    """A mount with a file in it."""
    (mirror.path / "image").write_bytes(CONTENT)
    return mirror


@pytest.fixture
def copied_on_ext4(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """For what does not depend on the file system."""
    mirror = mount_mirror(ext4_folder)
    (mirror.path / "image").write_bytes(CONTENT)
    return mirror


def test_the_rest_of_a_file_is_compared_when_its_writer_comes_back(copied: Mirror) -> None:
    path = copied.path / "image"

    def write() -> float:
        closed = write_header(path)
        assert path.read_bytes() == CONTENT[:HEADER]
        return write_rest(path) - closed

    assert written_in_time(copied, write) == 0
    assert path.read_bytes() == CONTENT
    assert (copied.backing / "image").read_bytes() == CONTENT
    assert is_finalised(copied.backing / "image")


def test_a_shell_that_appends_by_its_next_command_is_compared(copied: Mirror) -> None:
    path = copied.path / "image"

    def write() -> float:
        with path.open("wb") as file:
            file.write(CONTENT[:HEADER])
            file.flush()
            closed = time.monotonic()
        with path.open("ab") as file:
            opened = time.monotonic()
            file.write(CONTENT[HEADER:])
        return opened - closed

    assert written_in_time(copied, write) == 0
    assert (copied.backing / "image").read_bytes() == CONTENT


def test_a_stale_tail_to_which_no_writer_comes_back_is_finalised(copied_on_ext4: Mirror) -> None:
    path, backing = copied_on_ext4.path / "image", copied_on_ext4.backing / "image"
    path.write_bytes(b"short\n")
    assert path.read_bytes() == b"short\n"
    assert path.stat().st_blocks * 512 <= 64 << 10
    wait_for(lambda: is_finalised(backing))
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
def test_a_stale_tail_is_finalised_at_once_for_a_client_that_needs_it(
    copied_on_ext4: Mirror, act: Callable[[Path], None]
) -> None:
    path, backing = copied_on_ext4.path / "image", copied_on_ext4.backing / "image"
    write_header(path)
    act(path)
    assert is_finalised(backing)
    assert backing.read_bytes() == CONTENT[:HEADER]


def test_a_stale_tail_is_finalised_by_the_end_of_the_mount(copied_on_ext4: Mirror) -> None:
    write_header(copied_on_ext4.path / "image")
    copied_on_ext4.umount()
    assert is_finalised(copied_on_ext4.backing / "image")
    assert (copied_on_ext4.backing / "image").read_bytes() == CONTENT[:HEADER]


def test_a_file_that_was_emptied_and_synced_at_once_has_no_stale_tail(
    copied_on_ext4: Mirror,
) -> None:
    """Only a writer that has come back to a file is likely to do so once more."""
    fd = os.open(copied_on_ext4.path / "image", os.O_WRONLY | os.O_TRUNC)
    os.pwrite(fd, b"short\n", 0)
    os.fsync(fd)
    assert (copied_on_ext4.backing / "image").read_bytes() == b"short\n"
    os.close(fd)


def test_a_stale_tail_behind_half_of_a_copy_is_finalised_when_the_file_is_closed(
    copied_on_ext4: Mirror,
) -> None:
    (copied_on_ext4.path / "image").write_bytes(CONTENT[: SIZE // 2])
    assert (copied_on_ext4.backing / "image").read_bytes() == CONTENT[: SIZE // 2]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_header_that_was_synced_survives_a_power_cut(
    mount_mirror: Callable[..., Mirror], tmp_path: Path, kind: str
) -> None:
    """The disk is copied right after fdatasync. What was written to other files, and synced, must
    not take the recovery attribute along; what comes after is lost as a whole or in part.
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
            assert not is_finalised(backing / "image")
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
