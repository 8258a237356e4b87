"""What the metrics of one mount show, and the thread that looks at the disk for them and keeps the
file of metrics (`metrics_file`): once a minute, and after sessions that are over.

Guarantees: no request ever waits for the disk below, nor for that of the file: they see what the
thread saw last. An orderly end leaves the file with `mirrorfs_up 0`; a kill leaves the last text,
whose `mirrorfs_metrics_timestamp_seconds` grows old.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing.paths import matches, path_text
from mirrorfs.catalog.standing import coverage
from mirrorfs.fs import metrics_text
from mirrorfs.fs.metrics_file import MetricsFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrorfs.catalog.standing import Standing
    from mirrorfs.fs.handles import HandleTable
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.recorder import Recorder
    from mirrorfs.fs.setup import Setup
    from mirrorfs.mirror.counters import Account

log = logging.getLogger(__name__)

MAX_FILES = 1000
_ROUND_SECONDS = 60.0
# What comes meanwhile is written together; a text for many files takes some of the processor.
_PAUSE_SECONDS = 2.0
_CLOSE_SECONDS = 10.0
_LOAD_SECONDS = 5.0


class Chosen(NamedTuple):
    """The files that are shown one by one, and how many more were meant."""

    files: list[Standing]
    left_out: int


def choose(standings: Iterable[Standing], globs: tuple[bytes, ...]) -> Chosen:
    """Those that match one of `globs`, at most `MAX_FILES`: the ones with the most allocated. Of
    two whose paths are the same as text only one is shown: the same series twice is an error.
    """
    meant = [one for one in standings if one.is_watched and matches(one.path, globs)]
    meant.sort(key=lambda one: (-one.allocated, one.path))
    by_text: dict[str, Standing] = {}
    for one in meant:
        if len(by_text) == MAX_FILES:
            break
        by_text.setdefault(path_text(one.path), one)
    return Chosen(list(by_text.values()), len(meant) - len(by_text))


class Metrics:
    """The metrics of one mount; `text` may be called in any thread."""

    def __init__(
        self,
        setup: Setup,
        account: Account,
        inodes: InodeTable,
        handles: HandleTable,
        recorder: Recorder | None,
    ) -> None:
        self._labels = metrics_text.Labels(setup.mount_point, setup.backing)
        self._backing_fd = setup.backing_fd
        self._globs = setup.options.keep_pattern
        self._account = account
        self._inodes = inodes
        self._handles = handles
        self._recorder = recorder
        self._mounted_at = time.time()
        self._space: dict[str, float] = {}  # replaced as a whole
        folder = setup.metrics_folder
        self._file = None if folder is None else MetricsFile(folder, setup.mount_point)
        self._owns_place: Callable[[], bool] = lambda: True
        self._news = threading.Event()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self, owns_place: Callable[[], bool]) -> None:
        """Begin, when the mount is made. `owns_place` says that no other mount has come in its
        place: the file is that one's then.
        """
        self._owns_place = owns_place
        if self._recorder is not None:
            self._recorder.listeners.append(lambda _session: self._news.set())
        self._look()
        self._thread.start()

    def close(self) -> None:
        """Leave the last text in the file, but wait no longer than `_CLOSE_SECONDS` for it."""
        self._is_closing.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)

    def text(self) -> bytes:
        """All metrics, as they are now. Takes 0.1 s where there are many files."""
        recorder = self._recorder
        gauges: dict[str, float] = {
            "known_inodes": len(self._inodes),
            "open_files": len(self._handles),
            "uptime_seconds": time.time() - self._mounted_at,
            "up": not self._is_closing.is_set(),
            "metrics_timestamp_seconds": time.time(),
            **self._space,
        }
        files: list[Standing] = []
        if recorder is not None:
            standings, recent = recorder.standings(), recorder.recent()
            files, left_out = choose(standings, self._globs)
            covered = coverage(standings)
            last_ns = (recent[0].end_ns or 0) if recent else 0
            gauges |= {
                "apparent_bytes": sum(one.size for one in standings),
                "incomplete_files": sum(one.is_incomplete for one in standings),
                "last_session_timestamp_seconds": last_ns / 10**9,
                "last_scrub_timestamp_seconds": recorder.last_scrub_ns() / 10**9,
                "files_left_out": left_out,
                "chunks": covered.chunks,
                "known_chunks": covered.known_chunks,
            }
        return metrics_text.text(self._labels, self._account.snapshot(), gauges, files)

    def _run(self) -> None:
        if self._recorder is not None:
            # The first text has all files, unless that takes too long.
            self._recorder.loaded.wait(_LOAD_SECONDS)
        while not self._is_closing.is_set():
            self._round()
            if not self._is_closing.wait(_PAUSE_SECONDS):
                self._news.wait(_ROUND_SECONDS - _PAUSE_SECONDS)
            self._news.clear()
        self._round()

    def _round(self) -> None:
        try:
            self._look()
            if self._recorder is not None and not self._is_closing.is_set():
                self._recorder.look_at_scrubs()
            if self._file is not None and self._owns_place():
                self._file.write(self.text())
        except Exception:  # nothing must end the thread
            log.exception("the metrics could not be written")

    def _look(self) -> None:
        try:
            found = os.fstatvfs(self._backing_fd)
        except OSError as exc:  # a dead disk; what was seen last stays
            log.debug("free space: %s", exc)
            return
        self._space = {
            "free_bytes": found.f_bavail * found.f_frsize,
            "size_bytes": found.f_blocks * found.f_frsize,
        }
