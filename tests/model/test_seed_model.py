"""Files of a few MiB that are truncated, replaced and written again: at every instant the mount
shows what a bytearray holds, and after close, fsync or rename the backing file does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrorfs.backing import recovery_attribute, syscalls
from tests.model.test_sparse_model import blank
from tests.mounted import CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mounted import Mirror

BLOCK = 4096
MIB = 1 << 20
# Of 4 MiB, which xfs may allocate ahead of an append, a stale tail outlives an fsync (`has_begun`).
MAX_SIZE = 3 * MIB // 2

places = st.integers(0, MAX_SIZE // BLOCK).map(lambda n: n * BLOCK) | st.integers(0, MAX_SIZE)
low_places = st.just(0) | st.integers(0, 40).map(lambda n: n * BLOCK) | st.integers(0, 40 * BLOCK)
sizes = st.integers(1, 150).map(lambda n: n * BLOCK) | st.integers(1, 60 * BLOCK)
kinds = st.sampled_from(["zeros", "old", "new", "mixed"])
operation = st.one_of(
    st.tuples(st.just("write"), places | low_places, sizes, kinds, st.integers(1, 255)),
    st.tuples(st.just("write"), low_places, sizes, kinds, st.integers(1, 255)),
    st.tuples(st.just("next"), st.integers(0, 3) | sizes, sizes, kinds, st.integers(1, 255)),
    st.tuples(st.just("append"), sizes, kinds, st.integers(1, 255)),
    st.tuples(st.just("truncate"), places | low_places),
    st.tuples(st.just("truncate_name"), places | low_places),
    st.tuples(st.just("punch"), places | low_places, sizes),
    st.tuples(st.just("reopen"), st.booleans()),
    st.tuples(st.just("open_another"), st.booleans()),
    st.tuples(st.just("sync")),
    st.tuples(st.just("link")),
    st.tuples(st.just("make_again")),
    st.tuples(st.just("make_temporary")),
    st.tuples(st.just("rename")),
    st.tuples(st.just("seek")),
)


@cache
def old_content() -> bytes:
    """Random blocks, with a hole after every few, always the same."""
    chance = random.Random(5)
    blocks = [chance.randbytes(BLOCK) for _ in range(MAX_SIZE // BLOCK)]
    for number in range(7, len(blocks), 11):
        blocks[number] = bytes(BLOCK)
    return b"".join(blocks)


def piece(kind: str, offset: int, size: int, seed: int) -> bytes:
    """What is written at `offset`: zeros, what was there in the beginning, something else, or
    all of it in turn, at odd borders.
    """
    old = old_content()[offset : offset + size].ljust(size, b"\xee")
    if kind == "zeros":
        return bytes(size)
    if kind == "old":
        return old
    if kind == "new":
        return bytes([seed]) * size
    step = BLOCK if seed % 2 else 1000 + seed * 37
    parts = [bytes(step), b"", bytes([seed]) * step, b""]
    return b"".join(
        (parts[(start // step + seed) % 4] or old[start : start + step])[: size - start]
        for start in range(0, size, step)
    )


@dataclass
class File:
    """What a file should hold. `data` says that something other than zeros was written since it
    was last truncated, so that it is finalised as soon as it is closed.
    """

    content: bytearray
    data: bool = True


@dataclass
class Folder:
    """One name in a mount, the file that should be there, and the one that is open: the same, or
    one that is to replace it, or was replaced. The last of `fds` is used, the others are left open.
    """

    mirror: Mirror
    name: str
    named: File
    file: File
    fds: list[int] = field(default_factory=list)
    temporary: str = ""
    links: int = 0
    position: int = 0

    @property
    def path(self) -> Path:
        return self.mirror.path / (self.temporary or self.name)

    @property
    def backing(self) -> Path:
        return self.mirror.backing / (self.temporary or self.name)

    @property
    def fd(self) -> int:
        return self.fds[-1]

    def step(self, kind: str, *args: int) -> None:
        getattr(self, kind)(*args)

    def write(self, offset: int, size: int, kind: str, seed: int) -> None:
        self._put(offset, data := piece(kind, offset, size, seed))
        assert os.pwrite(self.fd, data, offset) == size

    def next(self, gap: int, size: int, kind: str, seed: int) -> None:
        """On from where the last one ended, as a copy does, perhaps with a gap."""
        self.write(self.position + gap, size, kind, seed)

    def append(self, size: int, kind: str, seed: int) -> None:
        offset = len(self.file.content)
        self._put(offset, data := piece(kind, offset, size, seed))
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        assert os.write(fd, data) == size
        self.close(fd)

    def _put(self, offset: int, data: bytes) -> None:
        content = self.file.content
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self.position = offset + len(data)
        self.file.data |= any(data)

    def truncate(self, size: int) -> None:
        self._cut(size)
        os.ftruncate(self.fd, size)

    def truncate_name(self, size: int) -> None:
        self._cut(size)
        os.truncate(self.path, size)

    def _cut(self, size: int) -> None:
        content = self.file.content
        del content[size:]
        content.extend(bytes(size - len(content)))
        self.file.data, self.position = False, 0

    def punch(self, start: int, size: int) -> None:
        syscalls.punch_hole(self.fd, start, start + size)
        blank(self.file.content, start, min(start + size, len(self.file.content)))

    def open(self, path: Path, flags: int = 0) -> None:
        self.fds.append(os.open(path, os.O_RDWR | flags, 0o644))
        if flags & os.O_TRUNC:
            self._cut(0)

    def close(self, fd: int) -> None:
        os.close(fd)
        if self.file.data:
            self.check_backing()

    def close_all(self) -> None:
        while self.fds:
            self.close(self.fds.pop())

    def reopen(self, empty: bool) -> None:
        self.close_all()
        self.open(self.path, os.O_TRUNC if empty else 0)

    def open_another(self, empty: bool) -> None:
        if len(self.fds) == 3:
            self.close(self.fds.pop(0))
        self.open(self.path, os.O_TRUNC if empty else 0)

    def sync(self) -> None:
        os.fsync(self.fd)
        self.check_backing()

    def link(self) -> None:
        if not self.temporary and self.links < 3:
            self.links += 1
            os.link(self.path, f"{self.path}-link-{self.links}")
            self.check_backing()

    def make_again(self) -> None:
        """As tar does: unlink, then make."""
        if not self.temporary:
            self.close_all()
            os.unlink(self.path)
            self.named = self.file = File(bytearray())
            self.open(self.path, os.O_CREAT | os.O_EXCL)
            self.position = 0

    def make_temporary(self) -> None:
        """As rsync does: what is written from now on will replace the file."""
        if not self.temporary:
            self.close_all()
            self.temporary = f".{self.name}.a1B2c3"
            self.file = File(bytearray())
            self.open(self.path, os.O_CREAT | os.O_EXCL)
            self.position = 0

    def rename(self) -> None:
        if self.temporary:
            os.rename(self.path, self.mirror.path / self.name)
            self.temporary, self.named = "", self.file
            self.check_backing()

    def seek(self) -> None:
        """Every byte that is not zero is reported as data, and no data beyond the end."""
        content, place = self.file.content, 0
        while place < len(content):
            try:
                start = os.lseek(self.fd, place, os.SEEK_DATA)
            except OSError as exc:
                assert exc.errno == errno.ENXIO
                start = end = len(content)
            else:
                end = os.lseek(self.fd, start, os.SEEK_HOLE)
                assert place <= start < end <= len(content)
            assert not any(content[place:start])
            place = end

    def check(self) -> None:
        """The mount shows what it should, to this handle and to a new one."""
        size = len(self.file.content)
        assert os.fstat(self.fd).st_size == self.path.stat().st_size == size
        assert os.pread(self.fd, size + BLOCK, 0) == self.file.content
        assert self.path.read_bytes() == self.file.content
        if self.temporary:
            assert (self.mirror.path / self.name).read_bytes() == self.named.content

    def check_backing(self) -> None:
        assert self.backing.read_bytes() == self.file.content
        assert recovery_attribute.NAME.decode() not in os.listxattr(self.backing)


@contextlib.contextmanager
def folder(mirror: Mirror, name: str, size: int) -> Iterator[Folder]:
    """A file with old content, open."""
    file = File(bytearray(old_content()[:size]))
    (mirror.backing / name).write_bytes(file.content)
    made = Folder(mirror, name, file, file)
    made.open(made.path)
    try:
        yield made
    finally:
        for fd in made.fds:
            os.close(fd)


def is_list_empty(mirror: Mirror) -> bool:
    """Perhaps in a moment: closing a file that was unlinked is not waited for."""
    path = mirror.backing / ".mirrorfs/unsettled"
    for _ in range(400):
        if not path.exists() or not path.stat().st_size:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_truncated_or_replaced_agrees_with_the_model(mirror: Mirror) -> None:
    number = 0

    @settings(
        max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.integers(MIB, MAX_SIZE), st.lists(operation, min_size=1, max_size=25))
    def check(size: int, steps: list[tuple[str, int]]) -> None:
        nonlocal number
        number += 1
        with folder(mirror, f"model-{number}", size) as made:
            for step in steps:
                made.step(*step)
                made.check()
            made.seek()
            made.close_all()
            made.open(made.path)
            made.sync()
            counted = vars(mirror.account(made.path.name))
            assert counted["received_bytes"] == sum(counted[kind] for kind in CLASSES)
            made.close_all()
            made.check_backing()
        assert is_list_empty(mirror)
        for path in mirror.path.glob(f"*model-{number}*"):
            path.unlink()

    check()
    counted = vars(mirror.counters())
    assert counted["received_bytes"] == sum(counted[kind] for kind in CLASSES)
    assert counted["unchanged_bytes"] + counted["shared_bytes"] > 0
