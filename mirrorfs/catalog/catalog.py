"""The catalog as the daemon keeps it: opened when there is something to note, in one thread.

Guarantees: nothing here raises. What cannot be written is lost, with one line in the log for each
reason, and tried again with the next rows; a damaged file is set aside, and a new one begun; a
newer one is left alone for good.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from mirrorfs.backing import state_folder
from mirrorfs.backing.paths import show
from mirrorfs.catalog import database

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class Catalog:
    """The catalog in the state folder `folder`, a path whose parent exists; none at all for None.

    The parent is opened at once (OSError if that fails): later its path may lead through the mount.
    """

    def __init__(self, folder: bytes | None) -> None:
        self._folder = folder
        self._folder_fd = self._parent_fd = -1
        self._db: sqlite3.Connection | None = None
        self._is_refused = folder is None
        self._is_broken = False  # the transaction under way is lost
        self._trouble = ""
        self._identity: tuple[int, int] | None = None  # of the file that is open
        if folder is not None:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._parent_fd = os.open(os.path.dirname(folder), flags)

    def exists(self) -> bool:
        """Whether there is a file already."""
        if self._folder is None:
            return False
        try:
            os.stat(
                os.path.join(os.path.basename(self._folder), database.NAME),
                dir_fd=self._parent_fd,
                follow_symlinks=False,
            )
        except OSError:
            return False
        return True

    def begin(self) -> None:
        """Begin a transaction; opens the catalog, and makes it, where need be."""
        self._is_broken = False
        if self._db is not None and self._identity != self._identity_now():
            log.warning("the catalog was removed or replaced; a new one is begun")
            self._disconnect()
        self.call(_begin)

    def call(
        self, function: Callable[[sqlite3.Connection, *_Args], _T], *args: *_Args
    ) -> _T | None:
        """What `function` returns, called with the database and `args`; None where there is none,
        or it failed: then the whole transaction is lost.
        """
        if self._is_broken or self._is_refused:
            return None
        try:
            return function(self._opened(), *args)
        except (sqlite3.Error, OSError, database.NewerCatalogError) as exc:
            self._is_broken = True
            self._failed(exc)
            return None

    def end(self) -> bool:
        """End the transaction; returns whether all of it is kept, or nothing ever is."""
        self.call(_commit)
        if self._is_broken and self._db is not None and self._db.in_transaction:
            try:
                self._db.rollback()
            except sqlite3.Error as exc:
                self._failed(exc)
        if not self._is_broken and not self._is_refused:
            self._trouble = ""
        return not self._is_broken

    def close(self) -> None:
        """Close what is open."""
        self._disconnect()
        for fd in (self._folder_fd, self._parent_fd):
            if fd >= 0:
                os.close(fd)
        self._folder_fd = self._parent_fd = -1
        self._is_refused = True

    def _opened(self) -> sqlite3.Connection:
        if self._db is None and self._folder is not None:
            if self._folder_fd < 0:
                name = os.path.basename(self._folder)
                self._folder_fd, _ = state_folder.open_or_make(self._parent_fd, name)
            self._db, damaged = database.open_to_write(self._folder_fd, self._folder)
            if damaged:
                self._say_damaged(damaged)
            self._identity = self._identity_now()
        if self._db is None:
            raise FileNotFoundError
        return self._db

    def _identity_now(self) -> tuple[int, int] | None:
        """Which file has the catalog's name."""
        try:
            status = os.stat(database.NAME, dir_fd=self._folder_fd, follow_symlinks=False)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _failed(self, exc: Exception) -> None:
        if isinstance(exc, database.NewerCatalogError):
            self._is_refused = True
        elif isinstance(exc, sqlite3.Error) and database.is_damaged(exc):
            self._set_aside()
            return
        text = (isinstance(exc, OSError) and exc.strerror) or str(exc)
        if text != self._trouble:
            self._trouble = text
            place = show(self._folder or b"")
            log.warning("sessions are not noted in the state folder %s: %s", place, text)

    def _set_aside(self) -> None:
        self._disconnect()
        try:
            self._say_damaged(database.set_aside(self._folder_fd))
        except OSError as exc:
            self._failed(exc)

    @staticmethod
    def _say_damaged(name: str) -> None:
        log.warning("the catalog was damaged; it is %s now, and a new one was begun", name)

    def _disconnect(self) -> None:
        if self._db is not None:
            try:
                self._db.close()
            except sqlite3.Error as exc:
                log.info("the catalog could not be closed: %s", exc)
            self._db = None


def _begin(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.rollback()
    db.execute("BEGIN IMMEDIATE")


def _commit(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.commit()
