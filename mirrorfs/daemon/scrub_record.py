"""What a scrub notes in the catalog: how far it is, and what is damaged. Without a catalog, or
where that cannot be written, the scrub goes on all the same, and the next one begins anew.
"""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING, TypeVarTuple

from mirrorfs.backing.paths import show
from mirrorfs.catalog import database, scrubs, sessions
from mirrorfs.catalog.scrubs import Place, Scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrorfs.backing.digest_file import Identity
    from mirrorfs.catalog.ranges import Ranges
    from mirrorfs.daemon.scrub_place import ScrubPlace

_Args = TypeVarTuple("_Args")


class Record:
    """Of a scrub of all below a path, which goes on where the one before was stopped. `warn` is
    called with a line for the user.
    """

    def __init__(self, where: ScrubPlace, below: bytes, warn: Callable[[str], None]) -> None:
        self._name = show(os.path.join(where.state_folder, database.NAME))
        self._warn = warn
        self._db: sqlite3.Connection | None = None
        self.is_kept = False  # by a catalog, and so far as is known
        now = time.time_ns()
        self.scrub = Scrub(below, now, now)
        try:
            self._db = database.open_beside(where.state_fd, where.state_folder)
            before = None if self._db is None else scrubs.last(self._db, below)
        except (sqlite3.Error, OSError, database.NewerCatalogError) as exc:
            self._give_up(exc)
            return
        self.is_kept = self._db is not None
        if before is not None and before.ended != scrubs.COMPLETE and before.next is not None:
            self.scrub = before

    def note(self, place: Place | None, ended: str | None = None) -> None:
        """Note where to go on, or how the scrub has ended."""
        self.scrub.next, self.scrub.ended, self.scrub.end_ns = place, ended, time.time_ns()
        self._do(scrubs.note, self.scrub)

    def note_damage(
        self,
        path: bytes,
        identity: Identity,
        span: tuple[int, int],
        damaged: Ranges,
        unreadable: Ranges,
    ) -> None:
        """Note what was found in the chunks `span` of a file."""
        own = identity.inode, identity.born_ns
        self._do(scrubs.note_damage, path, own, span, damaged, unreadable)

    def note_known(self, path: bytes, chunks: int) -> None:
        """Note of how many chunks of a file the digest is known."""
        self._do(sessions.note_known, path, chunks)

    def keep_damage(self, paths: Iterable[bytes]) -> None:
        """Forget the damage of what is not there any more; `paths` is all there is."""
        self._do(scrubs.keep_damage, self.scrub.below, paths)

    def close(self) -> None:
        """Close it."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _do(self, function: Callable[[sqlite3.Connection, *_Args], object], *args: *_Args) -> None:
        if self._db is None:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            function(self._db, *args)
            self._db.commit()
        except sqlite3.Error as exc:
            self._give_up(exc)

    def _give_up(self, exc: Exception) -> None:
        text = (isinstance(exc, OSError) and exc.strerror) or str(exc)
        self.is_kept = False
        self._warn(f"{self._name}: cannot be written ({text}); what is found is not noted")
        self.close()
