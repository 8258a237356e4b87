"""The thread that remembers: it writes sessions to the catalog when they are over, one transaction
for all that came meanwhile, and tells the log and those who wait for the news.

Guarantees: no request ever waits for it, nor for the disk that the catalog is on. A row that says
that a session ended is written after the last answer. A kill leaves the sessions that were under
way without an end, by which the next mount knows them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, TypeVarTuple

from mirrorfs.catalog import endings, scrubs, sessions
from mirrorfs.catalog.standing import WATCHED_BYTES, Standing, standing
from mirrorfs.fs import session_end
from mirrorfs.fs.session_log import SessionLog

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from mirrorfs.catalog.catalog import Catalog
    from mirrorfs.catalog.endings import Observed
    from mirrorfs.catalog.session import Session
    from mirrorfs.fs.live_session import Live
    from mirrorfs.mirror.counters import Account

log = logging.getLogger(__name__)
_Args = TypeVarTuple("_Args")

_BATCH_SECONDS = 0.2
_PRUNE_SECONDS = 86_400.0
_CLOSE_SECONDS = 10.0
_MAX_EVENTS = 100_000
_MAX_STANDINGS = 10_000
_MAX_UNSAVED = 1000
_RETRY_SECONDS = 60.0
_SCRUBS_SECONDS = 2.0
_DAY_NS = 86_400 * 10**9
RECENT = 100


class Recorder:
    """`days` is how long sessions are kept; `listeners` are called with each that is over, in the
    recorder's thread.
    """

    def __init__(self, catalog: Catalog, backing_fd: int, account: Account, days: int) -> None:
        self._catalog = catalog
        self._backing_fd = backing_fd
        self._account = account
        self._days = days
        self._log = SessionLog()
        self.listeners: list[Callable[[Session], object]] = []
        # What is to be done, or a path that is gone, of which many come at once. Appended by who
        # has the turn, taken out by the thread.
        self._events: deque[Callable[[], object] | bytes] = deque()
        self._is_closing = False
        self._lost = 0
        self._stir = threading.Condition()
        self._is_idle = False
        self._end_of_all = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        # Set as soon as what was noted before is known here.
        self.loaded = threading.Event()
        # Guarded by the lock, for those who read in other threads.
        self._lock = threading.Lock()
        self._recent: deque[Session] = deque(maxlen=RECENT)
        self._standings: dict[bytes, Standing] = {}
        self._life: dict[str, int] = {}
        self._damaged: dict[bytes, int] = {}  # chunks by path, as scrubs have noted it
        self._last_scrub_ns = 0
        # The recorder's own.
        self._begun: list[Live] = []
        self._over: list[Session] = []
        self._unsaved: list[Session] = []  # for which the disk had no space, above all
        self._pruned = float("-inf")
        # Until what there is was taken in, nothing is written over it.
        self._is_loaded = True

    def start(self, is_hidden: bool) -> None:
        """Begin; to be called before the mount. If that `is_hidden`, the state folder, the catalog
        is opened, or made, at once: SQLite would not find it later.
        """
        self._is_loaded = not (is_hidden or self._catalog.exists())
        if is_hidden:
            self._batch([])
        elif self._is_loaded:
            self.loaded.set()
        self._thread.start()

    def begin(self, live: Live) -> None:
        """Note that a session has begun."""
        self._put(partial(self._begin, live))

    def end(self, live: Live, seen: Observed) -> None:
        """Note that a session is over, and what was seen of its writers."""
        self._put(partial(self._end, live, seen))

    def known(self, path: bytes, chunks: int | None) -> None:
        """Note of how many chunks of a file the digest is known, when its session is over."""
        self._put(partial(self._known, path, chunks))

    def moved(self, old: bytes, new: bytes) -> None:
        """Note that a file or folder without a session has another path."""
        self._put(partial(self._moved, old, new))

    def exchanged(self, one: bytes, other: bytes) -> None:
        """Note that two have exchanged their paths."""
        self._put(partial(self._catalog.call, sessions.note_exchanged, one, other))

    def removed(self, path: bytes) -> None:
        """Note that there is nothing at a path any more."""
        self._put(path)

    def recent(self) -> list[Session]:
        """The last sessions that are over, the last one first (`RECENT`)."""
        with self._lock:
            return list(self._recent)

    def standings(self) -> list[Standing]:
        """How the files stand that are watched one by one."""
        with self._lock:
            damaged = self._damaged
            return [
                one._replace(damaged_chunks=damaged[one.path]) if one.path in damaged else one
                for one in self._standings.values()
            ]

    def last_scrub_ns(self) -> int:
        """When the last complete scrub ended, as `look_at_scrubs` has seen it; 0 if none did."""
        with self._lock:
            return self._last_scrub_ns

    def look_at_scrubs(self) -> None:
        """Let the thread see what scrubs, which are processes of their own, have noted, and wait
        for that, but not for long.
        """
        if not self._catalog.exists():
            return  # for this alone none is made
        is_seen = threading.Event()
        self._put(partial(self._look_at_scrubs, is_seen))
        is_seen.wait(_SCRUBS_SECONDS)

    def life(self) -> dict[str, int]:
        """The counters of all mounts, this one included."""
        now = self._account.snapshot().since_mount
        with self._lock:
            return {name: self._life.get(name, 0) + value for name, value in now.items()}

    def close(self) -> None:
        """Write what is left, but wait no longer than `_CLOSE_SECONDS` for a disk that hangs."""
        with self._stir:
            self._is_closing = True
            self._stir.notify()
        self._end_of_all.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _put(self, event: Callable[[], object] | bytes) -> None:
        if len(self._events) >= _MAX_EVENTS:
            self._lost += 1
            return
        self._events.append(event)
        if self._is_idle:  # else it comes by itself
            with self._stir:
                self._stir.notify()

    def _run(self) -> None:
        if not self._is_loaded:
            self._batch([])
        is_closing = False
        while not is_closing:
            with self._stir:
                self._is_idle = True
                if not self._events and not self._is_closing:
                    self._stir.wait(_RETRY_SECONDS if self._is_due() else None)
                self._is_idle = False
                is_closing = self._is_closing
            events = [self._events.popleft() for _ in range(len(self._events))]
            if events or self._is_due():
                self._batch(events)
            if not is_closing:
                self._end_of_all.wait(_BATCH_SECONDS)  # what comes next is written together
        self._catalog.close()
        if self._lost:
            log.warning("%d sessions or names were not noted: the disk was too slow", self._lost)

    def _is_due(self) -> bool:
        return bool(self._unsaved) or not self._is_loaded

    def _batch(self, events: list[Callable[[], object] | bytes]) -> None:
        was_loaded = self._is_loaded
        self._catalog.begin()
        if not was_loaded:
            self._do(self._load)
        for session in self._unsaved:
            self._catalog.call(sessions.end, session)
        gone: list[bytes] = []
        for event in events:
            if isinstance(event, bytes):
                gone.append(event)
                continue
            self._do(self._removed, gone)
            gone = []
            self._do(event)
        self._do(self._removed, gone)
        if self._is_loaded and (self._over or self._is_closing):  # else it would tell little
            self._catalog.call(sessions.set_life, self.life())
        self._prune()
        over, self._over = self._over, []
        if self._catalog.end():
            self._unsaved.clear()
        else:
            self._is_loaded = was_loaded
            self._unsaved = [*self._unsaved, *over][-_MAX_UNSAVED:]
            for live in self._begun:
                live.number = 0
        self._begun.clear()
        for session in over:
            for listener in self.listeners:
                listener(session)
        self._log.say(over)

    def _do(self, function: Callable[[*_Args], object], *args: *_Args) -> None:
        try:
            function(*args)
        except Exception:  # nothing must end the thread
            log.exception("a session could not be noted")

    def _load(self) -> None:
        """Take in what there is, and end what a daemon has left that died."""
        life = self._catalog.call(sessions.life)
        if self._is_loaded or life is None:
            return
        for session in self._catalog.call(sessions.under_way) or []:
            cut = session_end.cut_off(session, self._backing_fd)
            self._catalog.call(sessions.end, cut)
            self._log.say_found(cut)
        recent = self._catalog.call(sessions.recent, RECENT) or []
        known = self._catalog.call(_standings) or []
        if self._catalog.call(sessions.life) is None:  # one of these failed
            return
        self._is_loaded = True
        with self._lock:
            self._life = life
            mine = list(self._recent)
            known_here = {(one.begin_ns, one.inode) for one in mine}
            mine += [one for one in recent if (one.begin_ns, one.inode) not in known_here]
            self._recent = deque(mine[:RECENT], maxlen=RECENT)
            before = {one.path: one for one in known[:_MAX_STANDINGS]}
            self._standings = {**before, **self._standings}
        self.loaded.set()

    def _begin(self, live: Live) -> None:
        # One that nobody writes any more is as good as over. Noted with its end alone, it costs
        # half, and a kill before that loses no more than what is known of a whole file.
        if live.is_open:
            live.number = self._catalog.call(sessions.begin, live.begun) or 0
            self._begun.append(live)

    def _end(self, live: Live, seen: Observed) -> None:
        session = session_end.conclude(live, seen, self._backing_fd, self._catalog)
        self._catalog.call(sessions.end, session)
        # With a temporary name that is gone, what it was meant for is there as it was.
        is_removed = seen.is_removed and session.written_as is None
        if is_removed:
            self._catalog.call(sessions.note_removed, [session.path])
        self._over.append(session)
        with self._lock:
            self._recent.appendleft(session)
            self._stand(session, is_removed)

    def _stand(self, session: Session, is_removed: bool) -> None:
        before = self._standings.pop(session.path, None)
        now = standing(session.path, session, before.good_ns if before else None)
        if before is not None:
            now = now._replace(known_chunks=before.known_chunks)
        if session.size_after is None and before is not None:
            now = now._replace(size=before.size, allocated=before.allocated)
        if now.is_watched and not is_removed and len(self._standings) < _MAX_STANDINGS:
            self._standings[session.path] = now

    def _look_at_scrubs(self, is_seen: threading.Event) -> None:
        damage = self._catalog.call(scrubs.damage)
        last_ns = self._catalog.call(scrubs.last_complete_ns)
        with self._lock:
            if damage is not None:
                self._damaged = {one.path: one.left_chunks for one in damage}
            self._last_scrub_ns = last_ns or self._last_scrub_ns
        is_seen.set()

    def _known(self, written_as: bytes, chunks: int | None) -> None:
        path, _ = endings.meant_for(written_as)
        self._catalog.call(sessions.note_known, path, chunks)
        with self._lock:
            before = self._standings.get(path)
            if before is not None:
                self._standings[path] = before._replace(known_chunks=chunks)

    def _moved(self, old: bytes, new: bytes) -> None:
        self._catalog.call(sessions.note_moved, old, new)
        with self._lock:
            below = old + b"/"
            for path in [p for p in self._standings if p == old or p.startswith(below)]:
                moved = new + path[len(old) :]
                self._standings[moved] = self._standings.pop(path)._replace(path=moved)

    def _removed(self, paths: list[bytes]) -> None:
        if not paths:
            return
        self._catalog.call(sessions.note_removed, paths)
        with self._lock:
            for path in paths:
                self._standings.pop(path, None)

    def _prune(self) -> None:
        now = time.monotonic()
        if now - self._pruned < _PRUNE_SECONDS:
            return
        limit = time.time_ns() - self._days * _DAY_NS
        if not self._catalog.call(sessions.prune, limit):
            self._pruned = now


def _standings(db: sqlite3.Connection) -> list[Standing]:
    found = sessions.files(db, WATCHED_BYTES)
    return [
        standing(one.path, one.last, one.good.end_ns if one.good else None)._replace(
            known_chunks=one.known_chunks
        )
        for one in found
    ]
