"""The file of the catalog: made, read, set aside, refused."""

from __future__ import annotations

import os
import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest

from mirrorfs.catalog import database, sessions
from mirrorfs.catalog.database import NewerCatalogError
from mirrorfs.catalog.session import Session
from mirrorfs.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Folder:
    """A state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self.catalog = path / "catalog.sqlite3"

    def to_write(self) -> tuple[sqlite3.Connection, str]:
        return database.open_to_write(self.fd, os.fsencode(self.path))

    def to_read(self) -> sqlite3.Connection | None:
        return database.open_to_read(os.fsencode(self.path))

    def set_version(self, version: int) -> None:
        connection = sqlite3.connect(self.catalog)
        connection.execute(f"PRAGMA user_version={version}")
        connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    os.close(made.fd)


def test_a_new_one_is_the_daemons_alone(folder: Folder) -> None:
    before = os.umask(0)
    try:
        connection, _ = folder.to_write()
        sessions.begin(connection, Session(b"x", 1, "cp", 0))
        modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()}
        connection.close()
    finally:
        os.umask(before)
    assert modes == {0o600}


def test_it_is_read_while_it_is_written_and_afterwards(folder: Folder) -> None:
    writer, _ = folder.to_write()
    sessions.begin(writer, Session(b"x", 1, "cp", 0))
    for _ in range(2):
        reader = folder.to_read()
        assert reader is not None
        assert [one.path for one in sessions.under_way(reader)] == [b"x"]
        reader.close()
        writer.close()  # and once more


def test_it_is_read_where_nothing_can_be_written(folder: Folder) -> None:
    writer, _ = folder.to_write()
    sessions.begin(writer, Session(b"x", 1, "cp", 0))
    writer.close()
    reader = sqlite3.connect(f"file:{folder.catalog}?mode=ro&immutable=1", uri=True)
    assert len(sessions.under_way(reader)) == 1
    reader.close()


def test_where_there_is_none_there_is_nothing_to_read(folder: Folder) -> None:
    assert folder.to_read() is None
    assert not folder.catalog.exists()


@pytest.mark.parametrize(
    "content", [b"no catalog at all" * 300, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_one_is_set_aside_and_kept(folder: Folder, content: bytes) -> None:
    folder.catalog.write_bytes(content)
    with pytest.raises(StateError, match="cannot be read"):
        folder.to_read()
    connection, name = folder.to_write()
    assert name.startswith("catalog.damaged-")
    assert (folder.path / name).read_bytes() == content
    sessions.begin(connection, Session(b"x", 1, "cp", 0))
    connection.close()


def test_an_empty_file_becomes_a_catalog(folder: Folder) -> None:
    folder.catalog.touch(0o600)
    assert folder.to_read() is None
    connection, name = folder.to_write()
    assert name == ""
    connection.close()


def test_a_newer_one_is_left_as_it_is(folder: Folder) -> None:
    folder.to_write()[0].close()
    folder.set_version(database.VERSION + 1)
    before = folder.catalog.read_bytes()
    with pytest.raises(NewerCatalogError, match="newer mirrorfs"):
        folder.to_write()
    with pytest.raises(NewerCatalogError, match="newer mirrorfs"):
        folder.to_read()
    assert folder.catalog.read_bytes() == before


def test_a_link_is_not_followed(folder: Folder) -> None:
    (folder.path / "elsewhere").touch()
    folder.catalog.symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        folder.to_write()


def test_a_path_that_leads_elsewhere_is_refused(folder: Folder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(OSError, match="mounted over it"):
        database.open_to_write(folder.fd, os.fsencode(other))


def test_odd_bytes_in_the_path_are_no_trouble(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/a?b#c%20\xff"
    os.mkdir(place)
    folder_fd = os.open(place, os.O_RDONLY)
    connection, _ = database.open_to_write(folder_fd, place)
    sessions.begin(connection, Session(b"x", 1, "cp", 0))
    reader = database.open_to_read(place)
    assert reader is not None
    assert len(sessions.under_way(reader)) == 1
    reader.close()
    connection.close()
    os.close(folder_fd)


def test_an_older_one_is_brought_up_to_date(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _ = folder.to_write()
    sessions.begin(writer, Session(b"x", 1, "cp", 0))
    writer.close()
    steps = (*database._MIGRATIONS, "ALTER TABLE files ADD COLUMN further INTEGER;")
    monkeypatch.setattr(database, "_MIGRATIONS", steps)
    monkeypatch.setattr(database, "VERSION", len(steps))
    writer, _ = folder.to_write()
    assert writer.execute("PRAGMA user_version").fetchone() == (len(steps),)
    assert writer.execute("SELECT further FROM files").fetchall() == []
    assert len(sessions.under_way(writer)) == 1
    writer.close()


def test_what_is_no_file_is_refused_by_name(folder: Folder) -> None:
    folder.catalog.mkdir()
    with pytest.raises(StateError, match=r"catalog\.sqlite3: is no regular file"):
        folder.to_read()


def test_an_older_one_is_not_read_before_a_mount_has_brought_it_up_to_date(folder: Folder) -> None:
    folder.to_write()[0].close()
    folder.set_version(1)
    with pytest.raises(StateError, match=r"older mirrorfs .*; the next mount"):
        folder.to_read()
