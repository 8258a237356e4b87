"""The mirror files of a mount: one for each inode that is open for writing, shared by its handles.

A file is settled (`mirror.seeding`) before its last writer has closed it. One that a tool has
emptied, and closed when it had written little or nothing, is left for a moment: qemu-img does so,
and comes back to write (`Tail.awaits_more`). So is one that cannot be settled, until it can.

Everything here runs in the main loop's thread; what may block is done by the workers of the
inode's device.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.backing.statx import statx
from mirrorfs.fs import steps
from mirrorfs.fs.handles import FAILED_SYNC
from mirrorfs.mirror import open_file as mirror_file
from mirrorfs.mirror import progress, seeding, sync
from mirrorfs.mirror import stale_tail as tails
from mirrorfs.mirror.writeback import Writeback

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.filesystem import State
    from mirrorfs.fs.handles import FileHandle
    from mirrorfs.fs.inodes import Inode
    from mirrorfs.mirror.counters import FileKey
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.stale_tail import StaleTail

log = logging.getLogger(__name__)

_LINGER_SECONDS = 2.0
_MAX_LINGERING = 64  # each holds a descriptor
# Longer than a status can be under way from a thread to its answer.
_RECENT_SECONDS = 5.0
# Longer than a file system keeps a change of an attribute to itself (ext4(5), commit).
_UNSYNCED_SECONDS = 600.0


class OpenFiles:
    """By node id."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._by_id: dict[int, OpenFile] = {}
        self._lingering: dict[int, tuple[Inode, float]] = {}
        self._settled: dict[int, float] = {}
        self._unsynced: dict[FileKey, float] = {}

    def get(self, inode: Inode) -> OpenFile | None:
        return self._by_id.get(inode.node_id)

    async def share(self, inode: Inode, flags: int) -> OpenFile:
        """The one mirror file of an inode that is held, opened if need be; counted as used once
        more, by somebody who opens it with `flags`, or cuts it.
        """
        if self.get(inode) is not None:
            await inode.device.workers.run(steps.ask_to_write, inode.fd, flags)
        mirror = self.get(inode)
        if mirror is None:
            abilities = self._state.inodes.abilities(inode)
            mine = await inode.device.workers.run(
                mirror_file.open_writable,
                inode.fd,
                inode.key,
                abilities,
                self._state.rules(abilities),
                self._state.account,
                self._state.writebacks.get(inode.key),
                self._state.leftovers.checked(inode),
            )
            # Another open may have come first while this one was with the worker.
            mirror = self._by_id.setdefault(inode.node_id, mine)
            if mirror is mine:
                # A sync may have failed while this one was with the worker.
                mirror.writeback = self._state.writebacks.get(inode.key, mirror.writeback)
                self._opened(inode, mirror)
            else:
                inode.device.workers.close_fd(mine.fd)
        if mirror.stale_tail is not None and not mirror.handles:
            mirror.stale_tail.resumed = not flags & os.O_TRUNC
        mirror.handles += 1
        return mirror

    def adopt(self, inode: Inode, mirror: OpenFile) -> None:
        """Take the mirror file of an inode that was just made; counted as used once."""
        mirror.handles = 1
        self._by_id[inode.node_id] = mirror
        self._opened(inode, mirror)

    def _opened(self, inode: Inode, mirror: OpenFile) -> None:
        mirror.path = inode.path
        mirror.recovery_list = self._state.unsettled
        mirror.seeded = inode.key in self._unsynced
        self._state.remember_path(inode)

    def let_go(self, inode: Inode, mirror: OpenFile) -> bool:
        """The end of a `share`, where the file is still used or has nothing to settle. A thread
        closes it. False means that nothing was done.
        """
        if mirror.handles == 1 and mirror.stale_tail is not None:
            return False
        mirror.handles -= 1
        if mirror.handles:
            return True
        self.tell_failed_sync(inode, mirror)
        del self._by_id[inode.node_id]
        self._state.remember_writeback(mirror.key, mirror.writeback)
        if mirror.seeded:
            self._settled[inode.node_id] = time.monotonic()
            self._unsynced.pop(inode.key, None)  # to the end
            self._unsynced[inode.key] = time.monotonic()
        for fd in _fds(mirror):
            inode.device.workers.close_fd(fd)
        return True

    async def unshare(self, inode: Inode, mirror: OpenFile, failed: bool = False) -> None:
        """The end of a `share`; settles and closes the file when nobody uses it. If that has just
        `failed`, it is tried again in a moment.
        """
        if self.let_go(inode, mirror):
            return
        mirror.handles -= 1
        tail = mirror.stale_tail
        is_expected = tail is not None and tail.awaits_more and mirror.compares
        if failed or (is_expected and len(self._lingering) < _MAX_LINGERING):
            await self._linger(inode)
        else:
            await self.settle_quietly(inode, mirror)  # which ends with an unshare of its own

    async def _linger(self, inode: Inode) -> None:
        is_new = inode.node_id not in self._lingering
        self._lingering[inode.node_id] = (inode, time.monotonic() + _LINGER_SECONDS)
        if is_new:
            await self._state.inodes.hold(inode)

    def was_seeded(self, inode: Inode) -> bool:
        """Whether the file has, or had not long ago, a mark that may still be on the disk."""
        mirror = self.get(inode)
        return inode.key in self._unsynced if mirror is None else mirror.seeded

    def tail_of(self, inode: Inode) -> StaleTail | None:
        mirror = self.get(inode)
        return None if mirror is None else mirror.stale_tail

    def is_distrusted(self, inode: Inode) -> bool:
        """Whether a failed fsync makes it doubtful that the disk holds what reading it shows."""
        known = self._writeback_of(inode)
        return known is not None and known.failed

    def _writeback_of(self, inode: Inode) -> Writeback | None:
        mirror = self.get(inode)
        return self._state.writebacks.get(inode.key) if mirror is None else mirror.writeback

    def is_seek_trusted(self, handle: FileHandle) -> bool:
        """Whether a hole that SEEK_DATA reports in an open file may be taken for one."""
        if self.is_distrusted(handle.inode):
            return False
        if handle.fd < 0 and handle.mirror is not None:
            return handle.mirror.seek_proven
        return handle.reader.seek_proven

    def visible(self, inode: Inode, status: Status) -> Status:
        """What a client is told of an inode. `status` may have been taken before a tail began or
        ended, so of a file that has, or just had, one it is taken anew.
        """
        mirror = self.get(inode)
        if mirror is None:
            if inode.node_id in self._settled and inode.fd >= 0:
                return statx(inode.fd, ask=False)
            return status
        mirror.times_observed = True
        if not mirror.seeded:
            return status
        tail = mirror.stale_tail  # first, since it may end meanwhile; and it may begin
        status = statx(mirror.fd, ask=False)
        tail = tail or mirror.stale_tail
        return status if tail is None else tails.visible(tail, status)

    @property
    def has_tails(self) -> bool:
        return any(mirror.stale_tail is not None for mirror in self._by_id.values())

    async def settle(self, inode: Inode, mirror: OpenFile) -> None:
        """End the tail of a file, if it has one. Raises OSError as fsync does, and remembers it.

        Counted as used meanwhile: whoever has it open may close it.
        """
        if mirror.stale_tail is None:
            return
        mirror.handles += 1
        failed = True
        try:
            await inode.device.workers.run(sync.finalise, mirror)
            failed = False
        except OSError as exc:
            self._failed(inode, exc)
            raise
        finally:
            await self.unshare(inode, mirror, failed)

    async def settle_all(self, device: Device | None = None) -> bool:
        """End all tails, or those on one device, whatever comes of it; errors are kept for those
        who write. Returns whether there was one.
        """
        found = False
        for node_id, mirror in list(self._by_id.items()):
            inode = self._state.inodes.get(node_id)
            wanted = device is None or inode.device is device
            if wanted and mirror.stale_tail is not None and self.get(inode) is mirror:
                found = True
                await self.settle_quietly(inode, mirror)
        return found

    async def settle_closed(self, device: Device) -> None:
        """End the tails of files on a device that are closed, and left for a moment."""
        for inode, _ in list(self._lingering.values()):
            mirror = self.get(inode)
            if inode.device is device and mirror is not None and not mirror.handles:
                await self.settle_quietly(inode, mirror)

    async def give_up_seeds(self, device: Device) -> bool:
        """Close the old files on a device that are kept for a first write; returns whether there
        was one.
        """
        waiting = [
            mirror
            for node_id, mirror in self._by_id.items()
            if mirror.seed_fd >= 0 and self._state.inodes.get(node_id).device is device
        ]
        for mirror in waiting:
            with contextlib.suppress(OSError):
                await device.workers.run(seeding.give_up, mirror)
        return bool(waiting)

    async def settle_quietly(self, inode: Inode, mirror: OpenFile) -> None:
        """`settle` for somebody whom an error does not concern."""
        with contextlib.suppress(OSError):
            await self.settle(inode, mirror)

    async def sync(
        self, inode: Inode, mirror: OpenFile | None, data_only: bool, reading: int = -1
    ) -> None:
        """Make a file durable, by its mirror file, or, if nobody has it open for writing, by the
        descriptor `reading`. A failure is kept for every handle that is open now, and for those who
        write it later.

        Counted as used meanwhile: whoever has it open may close it.
        """
        if mirror is None:
            # Who does not write it does not come back for the rest (`Tail.resumed`).
            written = self.get(inode)
            if written is not None:
                await self.settle(inode, written)
            mirror = self.get(inode)
        if mirror is None:
            await self._sync_unwritten(inode, reading, data_only and not self.was_seeded(inode))
            return
        mirror.handles += 1
        failed, believed = True, False
        try:
            believed = await inode.device.workers.run(sync.sync, mirror, data_only)
            failed = False
        except OSError as exc:
            self._failed(inode, exc)
            raise
        finally:
            await self.unshare(inode, mirror, failed)
        self.tell_failed_sync(inode, mirror)
        if believed:
            self._believe_again(mirror)

    async def _sync_unwritten(self, inode: Inode, fd: int, data_only: bool) -> None:
        try:
            await inode.device.workers.run(sync.sync_unwritten, fd, data_only)
        except OSError as exc:
            self._failed(inode, exc)
            raise

    async def flush(self, inode: Inode, mirror: OpenFile) -> None:
        """Let the file system below report what it holds back until close (network file systems
        do), and remember it.
        """
        try:
            await inode.device.workers.run(steps.flush, mirror.fd)
        except OSError as exc:
            self._failed(inode, exc)
            raise

    def _failed(self, inode: Inode, error: OSError) -> None:
        """Remember that data of a file did not reach the disk, whoever has met that."""
        code = error.errno or errno.EIO
        if code == errno.EINTR:  # it was not even tried
            return
        self._state.note_failure(inode, code)
        known = self._writeback_of(inode) or Writeback()
        known.note_failure()
        if self.get(inode) is None:
            self._state.remember_writeback(inode.key, known)
        for handle in self._state.handles.files():
            if handle.inode is inode:
                handle.pending.code = code
                handle.pending.offset = FAILED_SYNC

    def tell_failed_sync(self, inode: Inode, mirror: OpenFile) -> None:
        """Let those who have a file open be told of a sync that failed while something else was
        done, a write above all: the kernel reports it once.
        """
        code = mirror.writeback.unreported_errno
        if code:
            self._failed(inode, OSError(code, os.strerror(code)))

    def _believe_again(self, mirror: OpenFile) -> None:
        """The end of what a failed fsync began."""
        for handle in self._state.handles.files():
            is_of_it = handle.inode.key == mirror.key
            if is_of_it and handle.pending.offset == FAILED_SYNC:
                handle.pending.code = 0

    async def sweep(self) -> None:
        """Close the files for which nobody came back; let the marks of the others follow."""
        now = time.monotonic()
        for node_id, mirror in list(self._by_id.items()):
            if mirror.stale_tail is not None and progress.is_behind(mirror.stale_tail):
                await self._refresh(self._state.inodes.get(node_id), mirror)
        for node_id, moment in list(self._settled.items()):
            if now >= moment + _RECENT_SECONDS:
                del self._settled[node_id]
        for key, moment in list(self._unsynced.items()):
            if now < moment + _UNSYNCED_SECONDS:
                break
            del self._unsynced[key]
        for node_id, (inode, deadline) in list(self._lingering.items()):
            if now < deadline:
                continue
            del self._lingering[node_id]
            left = self.get(inode)
            if left is not None and not left.handles:
                await self.settle_quietly(inode, left)
            self._state.inodes.release(inode)

    def note_stalls(self) -> None:
        """Note which files are held up by their disk, for who finds them after a crash."""
        for node_id, mirror in self._by_id.items():
            tail = mirror.stale_tail
            if tail is not None and self._state.inodes.get(node_id).device.is_local:
                tail.note_stalled(mirror.fd)

    async def _refresh(self, inode: Inode, mirror: OpenFile) -> None:
        """What was written to a file and not synced is made durable after a while."""
        mirror.handles += 1
        try:
            await inode.device.workers.run(sync.refresh, mirror)
        except OSError as exc:
            self._failed(inode, exc)
        finally:
            await self.unshare(inode, mirror)

    def close(self) -> None:
        """Let threads settle and close what clients left open, at the end of the mount."""
        for node_id, mirror in self._by_id.items():
            inode = self._state.inodes.get(node_id)
            inode.device.workers.start(_settle_and_close, mirror)
        self._by_id.clear()


def _settle_and_close(mirror: OpenFile) -> None:
    try:
        sync.finalise(mirror)
    except OSError as exc:  # which nobody is left to be told
        log.error("%s: could not be written at the end: %s", show(mirror.path()), exc.strerror)
    finally:
        for fd in _fds(mirror):
            os.close(fd)


def _fds(mirror: OpenFile) -> list[int]:
    return [fd for fd in (mirror.fd, mirror.seed_fd) if fd >= 0]
