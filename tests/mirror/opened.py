"""An open file without a mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from mirrorfs.backing.probe import probe
from mirrorfs.backing.progress_table import ProgressTable
from mirrorfs.mirror.counters import Account
from mirrorfs.mirror.open_file import OpenFile, open_writable
from mirrorfs.mirror.plan import Rules
from mirrorfs.mirror.stale_tail import StaleTail

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorfs.backing.recovery_list import RecoveryList

KEY = (0, 0, 0)
BLOCK = 4096
BLOCKS = 24
BIG = BLOCKS * BLOCK


def open_for_clients(path: Path, account: Account | None = None) -> OpenFile:
    """The file at `path`, opened with the default rules; its `fd` is the caller's. It has
    `account`, or one of its own.
    """
    folder_fd, path_fd = os.open(path.parent, os.O_RDONLY), os.open(path, os.O_PATH)
    try:
        abilities = probe(folder_fd, writable=True)
        return open_writable(path_fd, KEY, abilities, Rules(), account or Account())
    finally:
        os.close(folder_fd)
        os.close(path_fd)


def bare_tail(valid_length: int, logical_size: int, hidden_bytes: int = 0) -> StaleTail:
    """A stale tail that is recorded nowhere."""
    return StaleTail(
        valid_length=valid_length,
        logical_size=logical_size,
        shared=False,
        hidden_bytes=hidden_bytes,
        entry=1,
        place=-1,
        recovery_list=cast("RecoveryList", None),
        table=ProgressTable("none"),
        instance=b"inst",
        file=b"file",
        durable=0,
        durable_since=0.0,
    )
