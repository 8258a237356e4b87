"""The digests of a mount: what is known of each file that is being written, and the thread that
seals it when its session is over.

Guarantees: no request waits for the thread, nor for a disk but that of the digest file, once in a
session of a file that has one. Where the state folder cannot be used, there are no digests.
"""

from __future__ import annotations

import logging
import os
import queue
import stat
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mirrorfs.backing import state_folder, syscalls
from mirrorfs.backing.digest_file import Folder, Identity, Mark
from mirrorfs.backing.paths import show
from mirrorfs.backing.statx import statx
from mirrorfs.fs.restamps import Restamps
from mirrorfs.mirror import sealing
from mirrorfs.mirror.known_digests import WORTH_BYTES, KnownDigests, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.digest_file import Stamp
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.live_session import Live
    from mirrorfs.mirror.counters import FileKey

log = logging.getLogger(__name__)

_RESTAMP_SECONDS = 2.0
_NO_END = 1 << 63


class Digests:
    """Those below the backing folder `backing_fd`, on the device `root_device`, with so many
    `descriptors` at most: one for each file that had digests before its session. Unless `is_kept`,
    those that there are are taken away from files that change, and that is all. `unsynced` is
    called with the key of a file that could not be made durable, and the error; `noted` with a path
    and of how many chunks of that file the digest is known.
    """

    def __init__(
        self,
        place: bytes,
        backing_fd: int,
        root_device: int,
        abilities: Abilities,
        descriptors: int,
        is_kept: bool,
        unsynced: Callable[[FileKey, OSError], None],
        noted: Callable[[bytes, int | None], object],
    ) -> None:
        self._place = place
        self._backing_fd = backing_fd
        self._root_device = root_device
        self._abilities = abilities
        self._most_open = descriptors
        self._is_kept = is_kept
        self._unsynced = unsynced
        self._noted = noted
        self._restamps = Restamps()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        # Later its path may lead through the mount.
        self._parent_fd = os.open(os.path.dirname(place), flags)
        self._folder: Folder | None = None
        self._is_refused = False
        # Guards those two, and waits for the disk.
        self._folder_lock = threading.Lock()
        self._lock = threading.Lock()  # guards what follows
        self._known: dict[FileKey, KnownDigests] = {}
        self._events: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="digests", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def of(self, key: FileKey, is_new: bool) -> KnownDigests:
        """What is known of a file of which a session begins."""
        with self._lock:
            known = self._known.get(key)
            if known is None:
                resolve = partial(self._restamps.resolve, key)
                known = KnownDigests(
                    self.folder, self._identity(key), resolve, is_new, self._is_kept
                )
                self._known[key] = known
            return known

    def end(self, live: Live, is_believed: bool) -> None:
        """Let the thread seal what is known of a file of which a session is over; nothing is
        believed of it, if its content may never have reached the disk.
        """
        known = live.tally.digests
        if known is None:
            return
        with self._lock:
            if not known.is_to_be_kept:
                self._known.pop(live.key, None)
                return
            self._known[live.key] = known
        self._events.put(partial(self._seal, live, known, known.epoch, is_believed))

    def note_restamped(self, before: Status, after: Status) -> None:
        """Note what a client did to a file besides its content: its status before, and now."""
        if may_have_digests(before):
            self._restamps.note(before.key, stamp_of(before), stamp_of(after))

    def note_stamped(self, key: FileKey, mtime_ns: int) -> None:
        """Note that a client has set the mtime of a file, of which a session may be over, and not
        sealed yet.
        """
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            known.note_stamped(mtime_ns)

    def removed(self, status: Status) -> None:
        """Note that a file is no more, of which this was the status."""
        if may_have_digests(status):
            self._restamps.drop(status.key)
            self._events.put(partial(self._remove, status.key))

    def close(self) -> None:
        """Seal what is left; may take as long as the disk."""
        self._events.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._note_restamps()
        if self._folder is not None:
            self._folder.close()
        os.close(self._parent_fd)

    def folder(self) -> Folder | None:
        """The folder of the digest files, made where there is none; None if it cannot be used."""
        if self._folder is None and not self._is_refused:
            with self._folder_lock:
                self._open_folder()
        return self._folder

    def _open_folder(self) -> None:
        if self._folder is not None or self._is_refused:
            return
        try:
            name = os.path.basename(self._place)
            fd, _ = state_folder.open_or_make(self._parent_fd, name)
            try:
                self._folder = Folder(fd, self._most_open)
            finally:
                os.close(fd)
        except OSError as exc:
            if exc.errno in syscalls.NO_SPACE:
                return  # there may be some for the next file
            self._is_refused = True
            place = show(self._place)
            log.warning("no digests are kept in the state folder %s: %s", place, exc.strerror)

    def _identity(self, key: FileKey) -> Identity:
        device, inode, born_ns = key
        return Identity(0 if device == self._root_device else device, inode, born_ns)

    # --- The thread.

    def _run(self) -> None:
        is_over = False
        while not is_over:
            try:
                event = self._events.get(timeout=_RESTAMP_SECONDS)
            except queue.Empty:
                self._note_restamps()
                continue
            is_over = event is None
            if event is not None:
                try:
                    event()
                except Exception:  # nothing must end the thread
                    log.exception("digests could not be kept")

    def _seal(self, live: Live, known: KnownDigests, epoch: int, is_believed: bool) -> None:
        fd = self._open(live.path, live.key) if is_believed else -1
        try:
            if fd < 0:
                is_over = known.close(epoch, None)
            else:
                changed = live.tally.changed.ranges(_NO_END)
                is_over = sealing.seal(known, epoch, fd, changed, self._abilities.tells_holes(fd))
        except OSError as exc:
            is_over = True
            self._unsynced(live.key, exc)
        finally:
            if fd >= 0:
                os.close(fd)
        if known.is_changed_beside:
            known.is_changed_beside = False
            log.info("%s: was changed beside the mount; its digests are new", show(live.path))
        if is_over:
            self._noted(live.path, known.known_chunks)
        with self._lock:
            if is_over and self._known.get(live.key) is known:
                del self._known[live.key]

    def _open(self, path: bytes, key: FileKey) -> int:
        """A descriptor of a file, -1 if it does not lie there any more."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            try:
                fd = os.open(path, flags | os.O_NOATIME, dir_fd=self._backing_fd)
            except PermissionError:  # somebody else's file
                fd = os.open(path, flags, dir_fd=self._backing_fd)
        except OSError:
            return -1
        if statx(fd).key == key:
            return fd
        os.close(fd)
        return -1

    def _remove(self, key: FileKey) -> None:
        folder = self.folder() if self._exists() else None
        if folder is not None:
            folder.remove(self._identity(key))

    def _exists(self) -> bool:
        """Whether there is a state folder; for names that are removed none is made."""
        return self._folder is not None or os.path.lexists(self._place)

    def _note_restamps(self) -> None:
        moved = self._restamps.keys()
        folder = self.folder() if moved and self._exists() else None
        for key in moved:
            with self._lock:
                if key in self._known:
                    continue
            try:
                self._restamp(folder, key)
            except BlockingIOError:  # somebody looks at it
                continue
            except OSError as exc:
                log.info("the digests of a file could not follow it: %s", exc.strerror)

    def _restamp(self, folder: Folder | None, key: FileKey) -> None:
        """Let a digest file have the stamp of its file."""
        identity = self._identity(key)
        file = None if folder is None else folder.try_open(identity)
        after: Stamp | None = None
        if folder is not None and file is not None:
            try:
                header = file.header(identity, folder.seed)
                if header is not None and header.mark is Mark.CLOSED:
                    after = self._restamps.resolve(key, header.stamp)
                    if after != header.stamp:
                        file.set_header(replace(header, stamp=after))
            finally:
                file.close()
        self._restamps.drop(key, after)


def may_have_digests(status: Status) -> bool:
    """Whether a file with this status may have a digest file."""
    return stat.S_ISREG(status.mode) and status.size >= WORTH_BYTES
