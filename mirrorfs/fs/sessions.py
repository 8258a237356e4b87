"""The sessions that are under way: when each began, who wrote, and what was seen of its end.

A session begins with the first request that writes to a file or sets its size, and ends when no
writer has the file open and nothing has come for a while; a rename, or times that are set, belong
to it. Nothing here waits for a disk: rows are written by the `recorder`.

Used by whoever has the turn (`turn`).
"""

from __future__ import annotations

import contextlib
import errno
import stat
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import process
from mirrorfs.backing.statx import statx
from mirrorfs.catalog.session import Ending, Session
from mirrorfs.fs.digests import may_have_digests
from mirrorfs.fs.live_session import Live, worse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.digests import Digests
    from mirrorfs.fs.handles import FileHandle, HandleTable
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.recorder import Recorder
    from mirrorfs.fs.written_files import WrittenFiles
    from mirrorfs.mirror.counters import FileKey
    from mirrorfs.mirror.open_file import OpenFile


_PROGRAM_SECONDS = 0.5


class Sessions:
    """By identity. With neither a `recorder` nor `digests` nothing is remembered, and there are
    none.
    """

    def __init__(
        self,
        handles: HandleTable,
        recorder: Recorder | None,
        digests: Digests | None,
        written: WrittenFiles,
        quiet_seconds: float,
    ) -> None:
        self._handles = handles
        self._recorder = recorder
        self._digests = digests
        self._written = written
        self._quiet_seconds = quiet_seconds
        self._live: dict[FileKey, Live] = {}
        self._last_program = 0, "", 0.0  # number, name, and how long that holds (monotonic)

    def opened(self, inode: Inode, file: OpenFile) -> None:
        """Let a file that is opened for writing now go on with the session of its inode."""
        live = self._live.get(inode.key)
        if live is not None:
            file.tally = live.tally
            live.is_open = True
            live.reopen()

    def begin(self, inode: Inode, file: OpenFile, caller: Credentials | None) -> None:
        """Note that a client is about to write to a file, or to set its size; nothing if the
        session has begun already.
        """
        if file.tally.is_begun:
            return
        file.tally.is_begun = True
        if self._digests is not None and inode.device.is_local:
            file.tally.digests = self._digests.of(inode.key, file.is_new)
        if self._recorder is None and file.tally.digests is None:
            return
        pid = 0 if caller is None else caller.pid
        status = statx(file.fd, ask=False)
        size = status.size if file.stale_tail is None else file.stale_tail.logical_size
        now = time.time_ns()
        device, number, born_ns = inode.key
        begun = Session(
            inode.path(),
            now,
            self._program(pid),
            0 if caller is None else caller.uid,
            device,
            number,
            born_ns,
            size_before=size,
            allocated_before=status.blocks * 512,
        )
        live = Live(inode.key, begun.path, file.tally, begun, file.is_new, time.monotonic(), now)
        self._live[inode.key] = live
        if self._recorder is not None:
            self._recorder.begin(live)

    def _program(self, pid: int) -> str:
        """The name of a process, which may have been asked for just before."""
        known, name, until = self._last_program
        now = time.monotonic()
        if known != pid or now > until:
            name = process.name_of(pid) if pid else ""
            self._last_program = pid, name, now + _PROGRAM_SECONDS
        return name

    def flushed(self, handle: FileHandle, pid: int) -> None:
        """Note how the process `pid` closes one of the descriptors of a handle that is open for
        writing.
        """
        live = self._live.get(handle.inode.key)
        if live is None or not pid:
            return
        received = live.tally.counters.received_bytes
        if handle.closed is Ending.KILLED and handle.closed_at == received:
            return  # who has it open, too, has not gone on with what was cut off
        handle.closed_at = received
        is_exiting, is_killed = process.end_of(pid)
        if is_killed:
            handle.closed = Ending.KILLED
        else:
            handle.closed = Ending.EXITED if is_exiting else Ending.CLOSED

    def released(self, handle: FileHandle) -> None:
        """Note the end of a handle that was open for writing."""
        live = self._live.get(handle.inode.key)
        if live is None:
            return
        live.touch()
        live.is_failed = live.is_failed or bool(handle.pending.code)
        live.closed = worse(live.closed, handle.closed)

    def closed(self, file: OpenFile) -> None:
        """Note that a file is not open for writing any more, but for its descriptor."""
        live = self._live.get(file.key)
        if live is not None:
            live.is_open = False
            if file.digests is not None:
                file.digests.note_left(file.fd)
            live.touch()

    def note_error(self, key: FileKey, error: OSError) -> None:
        """Note that a client got an error for a write or fsync."""
        live = self._live.get(key)
        if live is not None:
            code = error.errno or errno.EIO
            live.errors[errno.errorcode.get(code, str(code))] += 1

    def note_lost(self, key: FileKey) -> None:
        """Note that what a client could not write will not come: it has cut the file before it."""
        live = self._live.get(key)
        if live is not None:
            live.is_failed = True

    def stamped(self, key: FileKey, mtime_ns: int) -> None:
        """Note that a client has set the mtime."""
        live = self._live.get(key)
        if live is not None:
            live.touch()
            live.stamped_at = live.tally.counters.received_bytes
            live.is_epoch = mtime_ns // 10**9 == 0  # rsync leaves the nanoseconds
        if self._digests is not None:
            self._digests.note_stamped(key, mtime_ns)

    def moved(self, key: FileKey, old: bytes, new: bytes, met: Status | None) -> None:
        """Note that a file or folder lies at `new` now, in place of one with the status `met`."""
        live = self._live.get(key)
        if live is not None:
            live.path = new
            live.touch()
            if met is not None and live.is_new:
                live.replaced = met.size, met.blocks * 512
            if not live.is_new and self._recorder is not None:
                self._recorder.moved(old, new)  # what is known from before
            return
        below = old + b"/"
        for other in self._live.values():
            if other.path.startswith(below):
                other.path = new + other.path[len(old) :]
        if self._recorder is not None:
            self._recorder.moved(old, new)

    def exchanged(self, one: FileKey, other: FileKey, paths: tuple[bytes, bytes]) -> None:
        """Note that two have exchanged their names, `paths` as they were."""
        for key, path in ((one, paths[1]), (other, paths[0])):
            live = self._live.get(key)
            if live is not None:
                live.path = path
                live.touch()
        if self._recorder is not None:
            self._recorder.exchanged(*paths)

    def removed(self, status: Status, path: bytes, is_last: bool) -> None:
        """Note that a name of a file is gone, its last one if `is_last`; its status before."""
        live = self._live.get(status.key)
        if live is not None and live.path == path and live.linked is not None:
            live.path = live.linked
        self.replaced(status, is_last)
        if self._recorder is not None:
            self._recorder.removed(path)

    def replaced(self, status: Status, is_last: bool) -> None:
        """Note that another file has taken a name of the one with this status before, its last one
        if `is_last`.
        """
        live = self._live.get(status.key)
        if live is not None:
            live.is_removed = is_last
            live.touch()
        if is_last and self._digests is not None:
            self._digests.removed(status)

    def linked(self, key: FileKey, path: bytes) -> None:
        """Note that a file has one more name: some tools give it its final one so."""
        live = self._live.get(key)
        if live is not None:
            live.linked = path

    def restamped(self, before: Status, after: Status) -> None:
        """Note what a client did to a file besides its content: its status before, and now."""
        if self._digests is not None:
            self._digests.note_restamped(before, after)

    @contextlib.contextmanager
    def restamping(self, inode: Inode) -> Iterator[None]:
        """What is done inside changes a pinned inode besides its content."""
        if self._digests is None or inode.kind != stat.S_IFREG or not inode.device.is_local:
            yield
            return
        before = statx(inode.fd, ask=False)
        yield
        if may_have_digests(before):
            self.restamped(before, statx(inode.fd, ask=False))

    def sweep(self) -> None:
        """End those to which nothing has come for a while."""
        before = time.monotonic() - self._quiet_seconds
        ended = [live for live in self._live.values() if not live.is_open and live.last <= before]
        for live in ended:
            self._end(live, is_open=False)

    def end_all(self) -> None:
        """End all, as the mount ends. The turn is nobody's then, and all files are closed below."""
        for live in list(self._live.values()):
            self._end(live, is_open=live.is_open and self._has_writer(live.key))

    def _has_writer(self, key: FileKey) -> bool:
        files = self._handles.files()
        return any(one.inode.key == key and one.open_file is not None for one in files)

    def _end(self, live: Live, is_open: bool) -> None:
        del self._live[live.key]
        if self._recorder is not None:
            self._recorder.end(live, live.observed(is_open))
        if self._digests is not None:
            writeback = self._written.writeback(live.key)
            self._digests.end(live, writeback is None or not writeback.failed)
