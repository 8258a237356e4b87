"""What a mount has noted of the sessions in it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from mirrorfs.catalog import database
from tests.commands import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
SIZE = 24 * MIB


def age(path: Path, seconds: int) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def sessions(mirror: Mirror) -> list[dict[str, Any]]:
    """The sessions that are over, the first one first."""
    text = (mirror.path / ".mirrorfs/history.json").read_text()
    found: list[dict[str, Any]] = json.loads(text)["sessions"]
    return found[::-1]


def wait_for_sessions(mirror: Mirror, count: int) -> list[dict[str, Any]]:
    wait_for(lambda: len(sessions(mirror)) >= count)
    found = sessions(mirror)
    assert len(found) == count
    return found


def noted(mirror: Mirror, query: str) -> bytes | None:
    """What the catalog has, by a query for one value; None while there is nothing."""
    reader = database.open_to_read(mirror.state_folder)
    if reader is None:
        return None
    with contextlib.closing(reader):
        row = reader.execute(query).fetchone()
    return None if row is None else bytes(row[0])


def is_receiving(mirror: Mirror) -> bool:
    """Whether a copy is in the middle."""
    received: int = mirror.counters().received_bytes
    return received >= MIB
