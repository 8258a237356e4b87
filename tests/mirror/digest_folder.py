"""Digests of a file without a mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.digest_file import Folder, Identity
from mirrorfs.backing.statx import statx
from mirrorfs.mirror.known_digests import KnownDigests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirrorfs.backing.digest_file import Stamp

CHUNK, MIB = 1 << 16, 1 << 20


class Written:
    """A file, with what is known of it in sessions, which follow one another."""

    def __init__(self, path: Path, folder: Folder) -> None:
        self.path, self.folder = path, folder
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        status = statx(self.fd)
        self.identity = Identity(0, status.ino, status.btime_ns)
        self.moved: dict[Stamp, Stamp] = {}
        self.known = self.new()

    def new(self, is_new: bool = False) -> KnownDigests:
        """What is known in the next session."""
        self.known = KnownDigests(
            lambda: self.folder, self.identity, lambda stamp: self.moved.get(stamp, stamp), is_new
        )
        return self.known

    def write(self, offset: int, data: bytes, is_zero: bool = False) -> None:
        self.known.begin(self.fd)
        os.pwrite(self.fd, data, offset)
        self.known.took(offset, data, True, is_zero)

    def leave(self) -> None:
        """The last client closes it."""
        self.known.note_left(self.fd)

    @property
    def changed(self) -> list[tuple[int, int]]:
        return [(0, -(-os.fstat(self.fd).st_size // CHUNK))]

    def states(self, known: KnownDigests | None = None) -> bytes:
        """What is known of each chunk."""
        known = known or self.known
        return known._groups.get(0, -(-os.fstat(self.fd).st_size // CHUNK))[0]


@pytest.fixture
def digest_folder(ext4_folder: Path) -> Iterator[Folder]:
    parent = os.open(ext4_folder, os.O_RDONLY)
    made = Folder(parent)
    os.close(parent)
    yield made
    made.close()


@pytest.fixture
def written(ext4_folder: Path, digest_folder: Folder) -> Iterator[Written]:
    made = Written(ext4_folder / "file", digest_folder)
    yield made
    os.close(made.fd)


def failing(error: int) -> Callable[..., None]:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail
