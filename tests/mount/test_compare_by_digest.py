"""compare=digest: what has the digest of what is there is not read; nothing else is believed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.digest_file import Folder, Identity, Mark
from mirrorfs.backing.statx import statx
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from tests.commands import run, wait_for
from tests.conftest import emptied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder, "compare=digest,session_quiet=0")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Two MiB of data, a hole, and data again up to an end within a block."""
    image = tmp_path / "vm.img"
    image.write_bytes(os.urandom(2 * MIB) + bytes(MIB) + os.urandom(MIB + 1000))
    return image


def is_sealed(mirror: Mirror) -> bool:
    """Whether the digest file of the image is closed."""
    if not (mirror.backing / ".mirrorfs/digests").exists():
        return False
    status_fd = os.open(mirror.backing / "vm.img", os.O_PATH)
    state_fd = os.open(mirror.backing / ".mirrorfs", os.O_RDONLY)
    folder = Folder(state_fd)
    try:
        status = statx(status_fd)
        identity = Identity(0, status.ino, status.btime_ns)
        try:
            file = folder.try_open(identity)
        except BlockingIOError:
            return False
        if file is None:
            return False
        header = file.header(identity, folder.seed)
        file.close()
        return header is not None and header.mark is Mark.CLOSED
    finally:
        folder.close()
        os.close(state_fd)
        os.close(status_fd)


def copy(mirror: Mirror, image: Path, *words: str) -> None:
    """A copy whose digests are sealed."""
    run("rsync", "--inplace", "--whole-file", "--ignore-times", *words, image, mirror.path)
    wait_for(lambda: is_sealed(mirror))


def test_what_is_unchanged_is_not_read(mirror: Mirror, image: Path) -> None:
    copy(mirror, image)
    copy(mirror, image)
    count = mirror.counters()
    assert (count.compared_bytes, count.trusted_bytes) == (0, image.stat().st_size - MIB)
    assert count.unchanged_bytes == count.trusted_bytes
    assert count.received_bytes == 2 * image.stat().st_size
    assert mirror.read("vm.img") == image.read_bytes()


def test_only_a_chunk_that_has_changed_is_read(mirror: Mirror, image: Path) -> None:
    copy(mirror, image)
    content = bytearray(image.read_bytes())
    content[5 * CHUNK_BYTES + 7 : 5 * CHUNK_BYTES + 10] = b"new"
    image.write_bytes(content)
    copy(mirror, image)
    count = mirror.counters()
    assert count.compared_bytes == CHUNK_BYTES
    assert count.written_bytes == 3 * MIB + 1000 + 4096
    assert mirror.read("vm.img") == content
    copy(mirror, image)
    assert mirror.counters().compared_bytes == CHUNK_BYTES  # its new digest is known


def test_what_was_changed_beside_the_mount_is_read(mirror: Mirror, image: Path) -> None:
    copy(mirror, image)
    with (mirror.backing / "vm.img").open("r+b") as file:
        file.write(b"changed beside the mount")
    copy(mirror, image)
    count = mirror.counters()
    assert (count.compared_bytes, count.trusted_bytes) == (image.stat().st_size - MIB, 0)
    assert (mirror.backing / "vm.img").read_bytes() == image.read_bytes()
    assert "vm.img: was changed beside the mount" in mirror.log.read_text()


@pytest.mark.parametrize("step", [4096, 32 << 10, CHUNK_BYTES + 4096])
def test_what_is_no_whole_chunk_is_read(mirror: Mirror, image: Path, step: int) -> None:
    copy(mirror, image)
    with (mirror.path / "vm.img").open("r+b", buffering=0) as file:
        content = image.read_bytes()
        for place in range(0, len(content), step):
            file.write(content[place : place + step])
    count = mirror.counters()
    assert count.compared_bytes > 2 * MIB
    assert count.written_bytes == 3 * MIB + 1000


def test_digests_are_known_after_an_attribute_or_a_name_has_changed(
    mirror: Mirror, image: Path
) -> None:
    copy(mirror, image)
    os.chmod(mirror.path / "vm.img", 0o600)
    os.rename(mirror.path / "vm.img", mirror.path / "other.img")
    os.link(mirror.path / "other.img", mirror.path / "vm.img")
    os.setxattr(mirror.path / "vm.img", "user.a", b"1")
    os.unlink(mirror.path / "other.img")
    os.utime(mirror.path / "vm.img", (5, 5))
    copy(mirror, image)
    assert mirror.counters().compared_bytes == 0


def test_digests_are_known_after_a_remount(mirror: Mirror, image: Path) -> None:
    copy(mirror, image)
    mirror.umount()
    mirror.mount()
    copy(mirror, image)
    assert mirror.counters().compared_bytes == 0


def test_nothing_is_known_after_the_daemon_was_killed_in_a_session(
    mirror: Mirror, image: Path
) -> None:
    copy(mirror, image)
    fd = os.open(mirror.path / "vm.img", os.O_WRONLY)
    os.pwrite(fd, b"x", 0)
    mirror.kill()
    with contextlib.suppress(OSError):
        os.close(fd)
    run("umount", "--lazy", mirror.path)
    mirror.noisy = True
    mirror.mount()
    copy(mirror, image)
    assert mirror.counters().trusted_bytes == 0
    assert mirror.read("vm.img") == image.read_bytes()


def test_a_file_that_is_emptied_first_is_known_by_its_old_content(
    mirror: Mirror, image: Path
) -> None:
    copy(mirror, image)
    run("dd", f"if={image}", f"of={mirror.path}/vm.img", "bs=1M")
    assert mirror.counters().compared_bytes == 0
    assert mirror.counters().written_bytes == 3 * MIB + 1000
    assert mirror.read("vm.img") == image.read_bytes()


@pytest.fixture
def xfs_folder(file_systems: Callable[[str], Path], tmp_path: Path) -> Iterator[Path]:
    yield from emptied(file_systems("xfs") / tmp_path.name)


def test_a_file_that_is_replaced_is_known_by_the_clone_of_the_old_one(
    xfs_folder: Path, mount_mirror: Callable[..., Mirror], image: Path
) -> None:
    mirror = mount_mirror(xfs_folder, "compare=digest,session_quiet=0")
    for _ in range(2):
        run("rsync", "--whole-file", "--ignore-times", image, mirror.path)
        wait_for(lambda: is_sealed(mirror))
    count = mirror.counters()
    assert (count.compared_bytes, count.shared_bytes) == (0, image.stat().st_size - MIB)
    assert mirror.read("vm.img") == image.read_bytes()


def test_compare_by_bytes_reads_what_it_knows(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], image: Path
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    copy(mirror, image)
    copy(mirror, image)
    count = mirror.counters()
    assert (count.compared_bytes, count.trusted_bytes) == (image.stat().st_size - MIB, 0)
