"""What a mount has remembered, as a test waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrorfs.catalog import database, sessions
from tests.commands import wait_for

if TYPE_CHECKING:
    from mirrorfs.catalog.session import Session
    from tests.mounted import Mirror


def noted(mirror: Mirror, name: str) -> list[Session]:
    """The sessions of a file that are over, the last one first."""
    db = database.open_to_read(mirror.state_folder)
    if db is None:
        return []
    try:
        return sessions.of_file(db, name.encode(), 1000)
    finally:
        db.close()


def wait_for_sessions(mirror: Mirror, name: str, count: int = 1) -> list[Session]:
    """Return when so many sessions of a file are noted as over; returns them."""
    wait_for(lambda: len(noted(mirror, name)) >= count)
    return noted(mirror, name)


def is_under_way(mirror: Mirror) -> bool:
    """Whether a session without an end is noted."""
    db = database.open_to_read(mirror.state_folder)
    if db is None:
        return False
    try:
        return bool(sessions.under_way(db))
    finally:
        db.close()
