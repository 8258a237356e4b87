"""What a mount has remembered, as a test waits for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from mirrorfs.catalog import database, sessions
from tests.commands import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def leave_killed(mirror: Mirror, name: str, data: bytes = b"x") -> None:
    """Have a process begin to write a file, and be killed with it open."""
    code = (
        "import os, sys, time\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)\n"
        "os.write(fd, sys.stdin.buffer.read())\n"
        "print('written', flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, mirror.path / name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data)
        process.stdin.close()
        assert process.stdout.readline() == b"written\n"
        process.kill()


@contextlib.contextmanager
def open_session(mirror: Mirror, name: str, data: bytes) -> Iterator[None]:
    """A session of a file that goes on; its daemon may be killed meanwhile."""
    fd = os.open(mirror.path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, data)
        wait_for(lambda: is_under_way(mirror))
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
