"""Random writes, truncations and reopenings: mount, backing file and a bytearray agree."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounted import Mirror

BLOCK = 4096
MAX_SIZE = 80 * BLOCK
SLACK_BYTES = 65536

offsets = st.integers(0, 60).map(lambda n: n * BLOCK) | st.integers(0, 60 * BLOCK)
sizes = st.integers(1, 12).map(lambda n: n * BLOCK) | st.integers(1, 12 * BLOCK)
operation = st.one_of(
    st.tuples(st.just("zeros"), offsets, sizes),
    st.tuples(st.just("same"), offsets, sizes),
    st.tuples(st.just("new"), offsets, sizes, st.integers(1, 255)),
    st.tuples(st.just("mixed"), offsets, sizes, st.integers(0, 2**32)),
    st.tuples(st.just("truncate"), offsets),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("sync")),
)


def mixed(size: int, seed: int) -> bytes:
    """Blocks of zeros and of data in turn, at odd borders, always the same for one seed."""
    piece = 512 + seed % 5000
    parts = [
        bytes(piece) if (seed >> i % 32) & 1 else bytes([1 + i % 255]) * piece for i in range(64)
    ]
    return (b"".join(parts) * (1 + size // (64 * piece)))[:size]


@dataclass
class Model:
    """The file as it should be, and the file as it is."""

    path: Path
    content: bytearray = field(default_factory=bytearray)
    fd: int = -1

    def open(self) -> None:
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)

    def write(self, offset: int, data: bytes) -> None:
        if len(self.content) < offset:
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + len(data)] = data
        assert os.pwrite(self.fd, data, offset) == len(data)

    def step(self, kind: str, *args: int) -> None:
        if kind == "zeros":
            self.write(args[0], bytes(args[1]))
        elif kind == "same":
            here = bytes(self.content[args[0] : args[0] + args[1]])
            if here:
                self.write(args[0], here)
        elif kind == "new":
            self.write(args[0], bytes([args[2]]) * args[1])
        elif kind == "mixed":
            self.write(args[0], mixed(args[1], args[2]))
        elif kind == "truncate":
            size = args[0]
            del self.content[size:]
            self.content.extend(bytes(size - len(self.content)))
            os.ftruncate(self.fd, size)
        elif kind == "sync":
            os.fsync(self.fd)
        else:
            os.close(self.fd)
            self.open()


def packed_bytes(content: bytes) -> int:
    """What the file would occupy with every zero block a hole."""
    starts = range(0, len(content), BLOCK)
    return sum(BLOCK for start in starts if any(content[start : start + BLOCK]))


def give_back_reservations(folder: Path) -> None:
    """xfs reserves 128 KiB for a write into a shared block, and space beyond the end of a file that
    is written, closed and written again (xfs_file_release in fs/xfs/xfs_file.c). It gives them back
    minutes later, or at once on request (xfs(5), "speculative_prealloc_lifetime"). It passes over a
    file whose inode counts as dirty, which fsync does not end and the sync of the file system does
    (xfs_can_free_cowblocks in fs/xfs/xfs_icache.c).
    """
    kind = run("stat", "-f", "-c", "%T", folder).stdout.strip()
    if kind == "xfs":
        run("sync", "-f", folder)
        run("xfs_spaceman", "-c", "prealloc -s", folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mount_backing_file_and_model_agree(mirror: Mirror) -> None:
    number = 0

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(operation, min_size=1, max_size=25))
    def check(steps: list[tuple[str, int]]) -> None:
        nonlocal number
        number += 1
        name = f"model-{number}"
        model = Model(mirror.path / name)
        model.open()
        for step in steps:
            model.step(*step)
            assert os.pread(model.fd, MAX_SIZE, 0) == model.content
        os.fsync(model.fd)
        os.close(model.fd)
        backing = mirror.backing / name
        assert backing.read_bytes() == model.content
        assert (mirror.path / name).stat().st_size == len(model.content)
        give_back_reservations(mirror.backing)
        occupied = backing.stat().st_blocks * 512
        assert occupied <= packed_bytes(bytes(model.content)) + SLACK_BYTES
        backing.unlink()

    check()
