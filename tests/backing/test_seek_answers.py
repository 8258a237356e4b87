"""What SEEK_DATA answers for data that is not on the disk yet, on every file system that is
believed and with every feature of theirs that can be tried here, and what is not believed.

Not tried: fs-verity and realtime devices of xfs, which no kernel here knows; files with these are
read.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import random
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import holes, seek_answers, syscalls
from mirrorfs.backing.probe import probe
from mirrorfs.mirror.view import View
from tests.commands import run
from tests.disks import MKFS, image_mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirrorfs.backing.probe import Abilities

KIB, MIB = 1 << 10, 1 << 20
STEPS = 40
# Files that lie in their inode, or in one block, or have many.
FILE_BYTES = (60, 6000, 6000, 256 * KIB, MIB, MIB, MIB)
FS_XFLAG_EXTSIZE = 0x800
# linux/fscrypt.h
FS_IOC_SET_ENCRYPTION_POLICY = 0x800C6613
FS_IOC_ADD_ENCRYPTION_KEY = 0xC0506617


def _encrypt(folder: Path) -> None:
    """Let what is made in an empty folder be encrypted (Documentation/filesystems/fscrypt.rst)."""
    fd = os.open(folder, os.O_RDONLY)
    key = bytes(range(64))
    added = bytearray(struct.pack("=II32xI36x64s", 2, 0, len(key), key))
    fcntl.ioctl(fd, FS_IOC_ADD_ENCRYPTION_KEY, added)
    fcntl.ioctl(
        fd, FS_IOC_SET_ENCRYPTION_POLICY, struct.pack("=BBBB4x16s", 2, 1, 4, 3, added[8:24])
    )
    os.close(fd)


def _hint_extent_size(folder: Path) -> None:
    run("xfs_io", "-c", "extsize 1m", folder)


@dataclass(frozen=True)
class Kind:
    """How to make a file system; `prepare` is done to the folder in which files are made."""

    mkfs: list[str]
    type: str
    options: str = "rw"
    prepare: Callable[[Path], None] | None = None


EXT4 = MKFS["ext4"]
BELIEVED = {
    "ext4": Kind(EXT4, "ext4"),
    "ext4 with small files in the inode": Kind([*EXT4, "-O", "inline_data"], "ext4"),
    "ext4 with clusters": Kind([*EXT4, "-O", "bigalloc", "-C", "65536"], "ext4"),
    "ext4 with small blocks": Kind([*EXT4, "-b", "1024"], "ext4"),
    "ext4 with data in the journal": Kind(EXT4, "ext4", "data=journal"),
    "ext4, encrypted": Kind([*EXT4, "-O", "encrypt"], "ext4", prepare=_encrypt),
    "xfs": Kind(MKFS["xfs"], "xfs"),
    "xfs with an extent size": Kind(MKFS["xfs"], "xfs", prepare=_hint_extent_size),
    "btrfs": Kind(MKFS["btrfs"], "btrfs"),
    "btrfs without copy on write": Kind(MKFS["btrfs"], "btrfs", "nodatacow"),
    "btrfs, compressed": Kind(MKFS["btrfs"], "btrfs", "compress-force=zstd"),
    "btrfs with small files in the tree": Kind(MKFS["btrfs"], "btrfs", "max_inline=4000"),
    "tmpfs": Kind([], "tmpfs"),
    "tmpfs with huge pages": Kind([], "tmpfs", "huge=always"),
}
READ = {
    "a disk that was ext3": Kind(["mkfs.ext3", "-q", "-F"], "ext4"),
    "ext4 without extents": Kind([*EXT4, "-O", "^extents,^64bit"], "ext4"),
    "ext4 without extents, written at once": Kind(
        [*EXT4, "-O", "^extents,^64bit"], "ext4", "nodelalloc"
    ),
    "ext3": Kind(["mkfs.ext3", "-q", "-F"], "ext3"),
}


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place for disks that are never waited for."""
    point = tmp_path_factory.mktemp("memory")
    run("mount", "-t", "tmpfs", "-o", "size=1g", "none", point)
    yield point
    run("umount", "--lazy", point)


@contextlib.contextmanager
def folder_on(kind: Kind, place: Path) -> Iterator[Path]:
    """A folder on a new file system, whose disk and mount point are made in `place`."""
    point = place / "mounted"
    with contextlib.ExitStack() as stack:
        stack.callback(point.rmdir)
        if kind.mkfs:
            image = place / "image"
            stack.callback(image.unlink)
            image.touch()
            os.truncate(image, 320 * MIB)
            run(*kind.mkfs, image)
            words = ("-t", kind.type, "-o", kind.options)
            stack.enter_context(image_mounted(image, point, *words))
        else:
            point.mkdir()
            run("mount", "-t", kind.type, "-o", f"size=64m,{kind.options}", "none", point)
            stack.callback(run, "umount", point)
        folder = point / "folder"
        folder.mkdir()
        if kind.prepare:
            kind.prepare(folder)
        yield folder


def probed(folder: Path) -> Abilities:
    fd = os.open(folder, os.O_RDONLY)
    try:
        return probe(fd, writable=True)
    finally:
        os.close(fd)


@dataclass
class Tried:
    """A file that is changed at random, and what must be in it."""

    path: Path
    abilities: Abilities
    random: random.Random
    limit: int
    model: bytearray = field(default_factory=bytearray)
    done: list[str] = field(default_factory=list)
    checks: int = 0

    def __post_init__(self) -> None:
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self.believed = self.abilities.tells_holes(self.fd)

    def range(self) -> tuple[int, int]:
        unit = self.random.choice([1, 512, 4 * KIB, 64 * KIB])
        start = self.random.randrange(self.limit) // unit * unit
        length = self.random.choice([1, 5, 100, 1000, 4 * KIB, 5000, 20_000, 100_000])
        return start, start + min(length, 2 * self.limit)

    def grow(self, size: int) -> None:
        self.model.extend(bytes(max(0, size - len(self.model))))

    def write(self, start: int, end: int) -> None:
        data = bytes([self.random.choice([0, *range(1, 256, 50)])]) * (end - start)
        os.pwrite(self.fd, data, start)
        self.grow(end)
        self.model[start:end] = data

    def punch(self, start: int, end: int) -> None:
        syscalls.punch_hole(self.fd, start, end)
        end = min(end, len(self.model))
        self.model[start:end] = bytes(max(0, end - start))

    def zero(self, start: int, end: int) -> None:
        syscalls.zero_range(self.fd, start, end, keep_size=False)
        self.grow(end)
        self.model[start:end] = bytes(end - start)

    def preallocate(self, start: int, end: int) -> None:
        syscalls.preallocate(self.fd, start, end, keep_size=False)
        self.grow(end)

    def preallocate_beyond(self, start: int, end: int) -> None:
        syscalls.preallocate(self.fd, start, end, keep_size=True)

    def cut(self, start: int, _end: int) -> None:
        size = min(start, len(self.model))
        os.ftruncate(self.fd, size)
        del self.model[size:]

    def grow_by_size(self, _start: int, end: int) -> None:
        self.grow(end)
        os.ftruncate(self.fd, len(self.model))

    def map(self, start: int, _end: int) -> None:
        if start < len(self.model):
            with mmap.mmap(self.fd, len(self.model)) as mapped:
                mapped[start] = self.model[start] = 77

    def clone(self, start: int, end: int) -> None:
        size = -(start - end) // self.abilities.unit_bytes * self.abilities.unit_bytes
        start -= start % self.abilities.unit_bytes
        target = start + size
        if size and target <= len(self.model):
            syscalls.clone_range(self.fd, target, self.fd, start, start + size)
            self.grow(target + size)
            self.model[target : target + size] = self.model[start : start + size]

    def drop_from_memory(self, _start: int, _end: int) -> None:
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        # ext4 itself loses what lies in the inode and not in memory, when space is allocated.
        os.pread(self.fd, 1, 0)

    def open_again(self, _start: int, _end: int) -> None:
        os.close(self.fd)
        self.__post_init__()

    def step(self) -> None:
        changes = [
            *[self.write] * 4,
            self.punch,
            self.zero,
            self.preallocate,
            self.preallocate_beyond,
            self.cut,
            self.grow_by_size,
            self.map,
            self.clone,
            self.drop_from_memory,
            self.open_again,
        ]
        change = self.random.choice(changes)
        start, end = self.range()
        self.done.append(f"{change.__name__}({start}, {end})")
        try:
            change(start, end)
        except OSError as exc:
            if not (syscalls.is_unsupported(exc) or change == self.clone):
                raise

    def check(self) -> None:
        start, end = self.range()
        story = "\n".join(self.done)
        got = View(self.fd, self.believed).read(start, end - start)
        assert got == self.model[start:end], story
        if not self.believed:
            return
        self.checks += 1
        size, place = len(self.model), 0
        assert os.fstat(self.fd).st_size == size, story
        for first, stop in [*holes.data_ranges(self.fd, 0, size), (size, size)]:
            assert not self.model[place:first].strip(b"\0"), f"{place}-{first} is data\n{story}"
            place = stop


def tried_at_random(folder: Path, abilities: Abilities) -> int:
    """Change files, and ask after each change, without a sync; returns how many answers were
    believed.
    """
    checks = 0
    for seed, limit in enumerate(FILE_BYTES):
        tried = Tried(folder / str(seed), abilities, random.Random(seed), limit)
        for _ in range(STEPS):
            tried.step()
            tried.check()
        os.close(tried.fd)
        checks += tried.checks
    return checks


@pytest.mark.parametrize("name", BELIEVED)
def test_seek_data_finds_what_is_not_on_the_disk_yet(name: str, memory: Path) -> None:
    with folder_on(BELIEVED[name], memory) as folder:
        abilities = probed(folder)
        assert abilities.seek_proven
        assert tried_at_random(folder, abilities) > len(FILE_BYTES) * STEPS // 2


@pytest.mark.parametrize("name", READ)
def test_seek_data_is_not_trusted_for_files_without_extents(name: str, memory: Path) -> None:
    with folder_on(READ[name], memory) as folder:
        abilities = probed(folder)
        assert not abilities.seek_proven
        assert tried_at_random(folder, abilities) == 0


def test_proof_fails_on_a_file_system_that_passes_over_data(memory: Path) -> None:
    with folder_on(READ["ext4 without extents"], memory) as folder:
        fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        assert not seek_answers.prove(fd)
        os.close(fd)


@pytest.mark.parametrize("upper", ["ext4", "xfs"])
def test_seek_data_is_not_trusted_on_an_overlay(
    upper: str, file_systems: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever file system holds its files: an overlay does not say which."""
    below = file_systems(upper) / tmp_path.name
    for name in ("lower", "upper", "work"):
        (below / name).mkdir(parents=True)
    point = tmp_path / "overlay"
    point.mkdir()
    options = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
    run("mount", "-t", "overlay", "-o", options, "none", point)
    try:
        abilities = probed(point)
        assert abilities.punch
        assert not abilities.seek_proven
    finally:
        run("umount", "--lazy", point)


def test_seek_data_is_not_trusted_without_a_proof(ext4_folder: Path) -> None:
    fd = os.open(ext4_folder, os.O_RDONLY)
    assert not probe(fd, writable=False).seek_proven
    os.close(fd)


@pytest.mark.parametrize(
    ("file_system", "flags", "is_right"),
    [
        ("ext4", syscalls.FS_EXTENT_FL, True),
        ("ext4", 0, False),
        ("ext4", syscalls.FS_EXTENT_FL | syscalls.FS_VERITY_FL, False),
        ("btrfs", 0, True),
        ("btrfs", syscalls.FS_VERITY_FL, False),
        ("xfs", FS_XFLAG_EXTSIZE, True),
        ("xfs", syscalls.FS_XFLAG_REALTIME, False),
    ],
)
def test_seek_data_is_trusted_by_the_flags_of_a_file(
    file_system: str, flags: int, is_right: bool
) -> None:
    assert seek_answers.is_right_with(flags, file_system) is is_right
