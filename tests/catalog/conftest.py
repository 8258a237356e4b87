"""A catalog in a folder of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.catalog import database

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    folder_fd = os.open(tmp_path, os.O_RDONLY)
    connection, _ = database.open_to_write(folder_fd, os.fsencode(tmp_path))
    yield connection
    connection.close()
    os.close(folder_fd)
