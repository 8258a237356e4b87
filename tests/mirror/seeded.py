"""A file with a stale tail, without a mount."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table, recovery_attribute
from mirrorfs.backing.recovery_list import RecoveryList, read_list
from mirrorfs.mirror import short_path, sync, writer
from mirrorfs.mirror.truncate import truncate
from mirrorfs.mirror.writer import Taken
from tests.mirror.opened import open_for_clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 4096
MIB = 1 << 20
OLD, NEW = b"\xa5", b"\x5a"


class Target:
    """A file of 2 MiB of old data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "file"
        path.write_bytes(OLD * 2 * MIB)
        self.state = os.fsencode(folder / "state")
        self.owner = progress_table.owner_of(self.state)
        os.mkdir(self.state, 0o700)
        self.state_fd = os.open(self.state, os.O_RDONLY)
        self.file = open_for_clients(path)
        self.file.recovery_list, self.file.path = RecoveryList(self.state), lambda: b"file"
        self.account = self.file.account

    def truncate(self, size: int) -> None:
        truncate(self.file, size, seeds=True)

    def write(self, offset: int, data: bytes) -> None:
        assert writer.write(self.file, offset, data) == Taken(len(data))

    def take(self, offset: int, data: bytes) -> int:
        """What the short path takes of a write."""
        with self.file.lock:
            return short_path.take(self.file, offset, data, 1)

    def finalise(self) -> bytes:
        sync.finalise(self.file)
        assert recovery_attribute.read(self.file.fd) is None
        assert not read_list(self.state_fd)
        return os.pread(self.file.fd, 4 * MIB, 0)

    @property
    def recorded(self) -> recovery_attribute.RecoveryAttribute:
        """The recovery attribute, with what the progress table says, which is newer."""
        found = recovery_attribute.read(self.file.fd)
        assert found is not None
        (entry,) = read_list(self.state_fd)
        noted = progress_table.read(found.table, found.place, entry.number)
        assert noted is not None
        return replace(found, valid_length=noted.valid_length, size=noted.size)


@contextlib.contextmanager
def opened_target(folder: Path) -> Iterator[Target]:
    """A target that leaves nothing behind."""
    made = Target(folder)
    yield made
    os.close(made.file.fd)
    os.close(made.state_fd)
    progress_table.remove_all(made.owner)
