"""The open files of a mount: one for each inode that is open for writing, shared by its handles.

A file is finalised (`mirror.seeding`) before its last writer has closed it. One that a tool has
emptied, and closed when it had written little or nothing, is left for a moment: qemu-img does so,
and comes back to write (`StaleTail.awaits_more`). So is one that cannot be finalised, until it can.

Used by whoever has the turn (`turn`); what may block goes by the inode's device.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from mirrorfs.backing import tree
from mirrorfs.backing.paths import show
from mirrorfs.backing.statx import statx
from mirrorfs.fs.recently_seeded import RecentlySeeded
from mirrorfs.mirror import open_file as mirror_file
from mirrorfs.mirror import progress, seeding, stale_tail, sync
from mirrorfs.mirror.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.handles import FileHandle, HandleTable
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.late_recovery import LateRecovery
    from mirrorfs.fs.policy import Policy
    from mirrorfs.fs.quiet_log import QuietLog
    from mirrorfs.fs.sessions import Sessions
    from mirrorfs.fs.written_files import WrittenFiles
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_LINGER_SECONDS = 2.0
_MAX_LINGERING = 64  # each holds a descriptor


class OpenFiles:
    """By node id."""

    def __init__(
        self,
        inodes: InodeTable,
        handles: HandleTable,
        account: Account,
        policy: Policy,
        recovery_list: RecoveryList | None,
        late_recovery: LateRecovery,
        written: WrittenFiles,
        sessions: Sessions,
        quiet_log: QuietLog,
    ) -> None:
        self._inodes = inodes
        self._handles = handles
        self._account = account
        self._policy = policy
        self._recovery_list = recovery_list
        self._late_recovery = late_recovery
        self._written = written
        self._sessions = sessions
        self._log = quiet_log
        self._by_id: dict[int, OpenFile] = {}
        # Closed, but not finalised: until when to wait for a client that comes back.
        self._lingering: dict[int, tuple[Inode, float]] = {}
        self._seeded = RecentlySeeded()

    def get(self, inode: Inode) -> OpenFile | None:
        """The open file of an inode; None if no client has it open for writing."""
        return self._by_id.get(inode.node_id)

    async def share(self, inode: Inode, flags: int) -> OpenFile:
        """The open file of an inode that is pinned, opened if need be; counted as used once more,
        by a client that opens it with `flags` of open(2), or cuts it. Raises OSError as open(2).
        """
        if self.get(inode) is not None:
            await inode.device.threads.run(tree.ask_to_write, inode.fd, flags)
        file = self.get(inode)
        if file is None:
            abilities = self._inodes.abilities(inode)
            mine = await inode.device.threads.run(
                mirror_file.open_writable,
                inode.fd,
                inode.key,
                abilities,
                self._policy.rules(abilities),
                self._account,
                self._late_recovery.check_of(inode),
            )
            # Another open may have come first while this one was with the thread.
            file = self._by_id.setdefault(inode.node_id, mine)
            if file is mine:
                self._opened(inode, file)
            else:
                inode.device.close_fd(mine.fd)
        if file.stale_tail is not None and not file.handles:
            file.stale_tail.resumed = not flags & os.O_TRUNC
        file.handles += 1
        return file

    def adopt(self, inode: Inode, file: OpenFile) -> None:
        """Take the open file of an inode that was just made; counted as used once."""
        file.handles = 1
        self._by_id[inode.node_id] = file
        self._opened(inode, file)

    def _opened(self, inode: Inode, file: OpenFile) -> None:
        file.path = inode.path
        file.recovery_list = self._recovery_list
        file.seeded = self._seeded.may_be_marked(inode)
        file.writeback = self._written.note_opened(inode)
        self._sessions.opened(inode, file)

    def _let_go(self, inode: Inode, file: OpenFile) -> bool:
        """The end of a `share`, where the file is still used or has nothing to finalise. A thread
        closes it. False means that nothing was done.
        """
        if file.handles == 1 and file.stale_tail is not None:
            return False
        file.handles -= 1
        if file.handles:
            return True
        self.report_failed_sync(inode, file)
        del self._by_id[inode.node_id]
        self._written.note_closed(inode.key, file.writeback)
        self._sessions.closed(file)
        if file.seeded:
            self._seeded.note(inode)
        for fd in _fds(file):
            inode.device.close_fd(fd)
        return True

    async def unshare(self, inode: Inode, file: OpenFile, failed: bool = False) -> None:
        """The end of a `share`; finalises and closes the file when no handle uses it. If that has
        just `failed`, it is tried again in a moment.
        """
        if self._let_go(inode, file):
            return
        file.handles -= 1
        tail = file.stale_tail
        is_expected = tail is not None and tail.awaits_more and file.compares
        if failed or (is_expected and len(self._lingering) < _MAX_LINGERING):
            await self._linger(inode)
        else:
            await self.finalise_quietly(inode, file)  # which ends with an unshare of its own

    async def _linger(self, inode: Inode) -> None:
        is_new = inode.node_id not in self._lingering
        self._lingering[inode.node_id] = (inode, time.monotonic() + _LINGER_SECONDS)
        if is_new:
            await self._inodes.pin(inode)

    def stale_tail_of(self, inode: Inode) -> StaleTail | None:
        """The stale tail of an inode, if it has one."""
        file = self.get(inode)
        return None if file is None else file.stale_tail

    def is_writeback_failed(self, inode: Inode) -> bool:
        """Whether a failed fsync makes it doubtful that the disk holds what reading it shows."""
        file = self.get(inode)
        writeback = self._written.writeback(inode.key) if file is None else file.writeback
        return writeback is not None and writeback.failed

    def view(self, handle: FileHandle) -> View:
        """What the client of a handle sees of its file at this moment."""
        file = handle.open_file
        fd, proven = handle.fd, handle.reader.seek_proven
        if fd < 0 and file is not None:
            fd, proven = file.fd, file.seek_proven
        is_trusted = proven and not self.is_writeback_failed(handle.inode)
        return View(fd, is_trusted, self.stale_tail_of(handle.inode))

    def visible(self, inode: Inode, status: Status) -> Status:
        """What a client sees of an inode's status. `status` may have been taken before a stale tail
        began or ended, so of a file that has, or just had, one it is taken anew.
        """
        file = self.get(inode)
        if file is None:
            if self._seeded.has(inode) and inode.fd >= 0:
                return statx(inode.fd, ask=False)
            return status
        if not file.seeded:
            return status
        tail = file.stale_tail  # first, since it may end meanwhile; and it may begin
        status = statx(file.fd, ask=False)
        tail = tail or file.stale_tail
        return status if tail is None else stale_tail.visible(tail, status)

    @property
    def have_stale_tails(self) -> bool:
        """Whether one of them has a stale tail."""
        return any(file.stale_tail is not None for file in self._by_id.values())

    async def finalise(self, inode: Inode, file: OpenFile) -> None:
        """End the stale tail of a file, if it has one. Raises OSError as fsync does, and remembers
        it.
        """
        if file.stale_tail is not None:
            await self._make_durable(inode, file, sync.finalise, file)

    async def _make_durable(
        self,
        inode: Inode,
        file: OpenFile,
        function: Callable[[*_Args], _T],
        *args: *_Args,
    ) -> _T:
        """Call `function(*args)`, which may sync the file, in a thread, and remember its failure.
        The file counts as used meanwhile: a client that has it open may close it.
        """
        file.handles += 1
        failed = True
        try:
            result = await inode.device.threads.run(function, *args)
            failed = False
        except OSError as exc:
            self._failed(inode, exc)
            raise
        finally:
            await self.unshare(inode, file, failed)
        return result

    async def finalise_quietly(self, inode: Inode, file: OpenFile) -> None:
        """`finalise` for a request that an error does not concern."""
        with contextlib.suppress(OSError):
            await self.finalise(inode, file)

    async def finalise_all(self, device: Device | None = None) -> bool:
        """End all stale tails, or those on one device, whatever comes of it; errors are kept for
        the clients that write. Returns whether there was one.
        """
        found = False
        for node_id, file in list(self._by_id.items()):
            inode = self._inodes.get(node_id)
            wanted = device is None or inode.device is device
            if wanted and file.stale_tail is not None and self.get(inode) is file:
                found = True
                await self.finalise_quietly(inode, file)
        return found

    async def finalise_closed(self, device: Device) -> None:
        """End the stale tails of files on a device that are closed, and left for a moment."""
        for inode, _ in list(self._lingering.values()):
            file = self.get(inode)
            if inode.device is device and file is not None and not file.handles:
                await self.finalise_quietly(inode, file)

    async def give_up_seeds(self, device: Device) -> bool:
        """Close the old files on a device that are kept for a first write; returns whether there
        was one.
        """
        waiting = [
            (inode, file)
            for inode, file in ((self._inodes.get(key), file) for key, file in self._by_id.items())
            if file.seed_fd >= 0 and inode.device is device
        ]
        for _, file in waiting:
            file.handles += 1  # a client may close it meanwhile
        for inode, file in waiting:
            try:
                with contextlib.suppress(OSError):
                    await device.threads.run(seeding.give_up, file)
            finally:
                await self.unshare(inode, file)
        return bool(waiting)

    async def sync(
        self, inode: Inode, file: OpenFile | None, data_only: bool, reading_fd: int = -1
    ) -> None:
        """Make a file durable, by its open file, or, if no client has it open for writing, by the
        descriptor `reading_fd`. A failure is kept for every handle that is open now, and for
        clients that write it later.
        """
        if file is None:
            # A client that does not write it does not come back for the rest (`resumed`).
            written = self.get(inode)
            if written is not None:
                await self.finalise(inode, written)
            file = self.get(inode)
        if file is None:
            is_data_enough = data_only and not self._seeded.may_be_marked(inode)
            await self._sync_unwritten(inode, reading_fd, is_data_enough)
            return
        made_good = await self._make_durable(inode, file, sync.sync, file, data_only)
        self.report_failed_sync(inode, file)
        if made_good:
            for handle in self._handles.of(inode):
                handle.pending.forget_failed_sync()

    async def _sync_unwritten(self, inode: Inode, fd: int, data_only: bool) -> None:
        try:
            await inode.device.threads.run(sync.sync_unwritten, fd, data_only)
        except OSError as exc:
            self._failed(inode, exc)
            raise

    async def flush(self, inode: Inode, file: OpenFile) -> None:
        """Let the file system below report what it holds back until close (network file systems
        do), and remember it.
        """
        try:
            await inode.device.threads.run(tree.flush, file.fd)
        except OSError as exc:
            self._failed(inode, exc)
            raise

    def _failed(self, inode: Inode, error: OSError) -> None:
        """Remember that data of a file did not reach the disk, whichever request has met that."""
        code = error.errno or errno.EIO
        if code == errno.EINTR:  # it was not even tried
            return
        self._log.failure(inode, code)
        self._sessions.note_error(inode.key, error)
        file = self.get(inode)
        if file is None:
            self._written.note_failure(inode.key)
        else:
            file.writeback.note_failure()
        for handle in self._handles.of(inode):
            handle.pending.note_failed_sync(code)

    def report_failed_sync(self, inode: Inode, file: OpenFile) -> None:
        """Let the clients that have a file open get the error of a sync that failed while something
        else was done, a write above all: the kernel reports it once.
        """
        code = file.writeback.unreported_errno
        if code:
            self._failed(inode, OSError(code, os.strerror(code)))

    async def sweep(self) -> None:
        """Close the files to which no client came back; bring the recovery attributes of the others
        up to date.
        """
        now = time.monotonic()
        for node_id, file in list(self._by_id.items()):
            if file.stale_tail is not None and progress.is_behind(file.stale_tail):
                await self._refresh(self._inodes.get(node_id), file)
        self._seeded.sweep()
        for node_id, (inode, deadline) in list(self._lingering.items()):
            if now < deadline:
                continue
            del self._lingering[node_id]
            left = self.get(inode)
            if left is not None and not left.handles:
                await self.finalise_quietly(inode, left)
            self._inodes.unpin(inode)

    def note_stalls(self) -> None:
        """Note which files are held up by their disk, for the recovery after a crash."""
        for node_id, file in self._by_id.items():
            tail = file.stale_tail
            if tail is not None and self._inodes.get(node_id).device.is_local:
                tail.note_stalled(file.fd)

    async def _refresh(self, inode: Inode, file: OpenFile) -> None:
        """Make durable what was written to a file a while ago and not synced."""
        file.handles += 1
        try:
            await inode.device.threads.run(sync.refresh, file)
        except OSError as exc:
            self._failed(inode, exc)
        finally:
            await self.unshare(inode, file)

    def close(self) -> None:
        """Let threads finalise and close what clients left open, at the end of the mount."""
        for node_id, file in self._by_id.items():
            self._inodes.get(node_id).device.threads.start(_finalise_and_close, file)
        self._by_id.clear()


def _finalise_and_close(file: OpenFile) -> None:
    try:
        sync.finalise(file)
    except OSError as exc:  # no client is left to get it
        log.error("%s: could not be written at the end: %s", show(file.path()), exc.strerror)
    finally:
        for fd in _fds(file):
            os.close(fd)


def _fds(file: OpenFile) -> list[int]:
    return [fd for fd in (file.fd, file.seed_fd) if fd >= 0]
