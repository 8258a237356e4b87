"""Requests that are answered where they are received, without a coroutine, a thread or a copy.

The extension shows each request of these kinds in the kernel's own form (linux/fuse.h), and is
given the answer, or None: then it goes to pyfuse3, and its handler in `operations` or `names`, as
if it had not been here. Nothing here waits for a disk, a lock or a client, but a write waits a
moment for the thread that does it (`workers`); the handler goes on with what was begun. The
handlers are for what takes longer, and for a mount without the extension, in which they do the same
as is done here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import outcome

from mirrorfs.backing import atime
from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs.handles import BegunWrite, FileHandle
from mirrorfs.fuse import extension, guard, protocol
from mirrorfs.fuse.eager import Eager
from mirrorfs.fuse.protocol import Answer, Handler, Opcode
from mirrorfs.mirror import append_fast_path, basis, unchanged_fast_path, writer
from mirrorfs.mirror.unchanged_fast_path import Elided

if TYPE_CHECKING:
    from mirrorfs.fs.sparse import SparseOperations
    from mirrorfs.fs.threads import Call, Threads
    from mirrorfs.mirror.open_file import OpenFile
    from mirrorfs.mirror.plan import Data
    from mirrorfs.mirror.writer import Taken

_DONE = b""


def begin_write(handle: FileHandle, mirror: OpenFile, offset: int, data: Data) -> BegunWrite:
    """Take what can be taken of a write without waiting, and begin the rest in a thread. What may
    come next is read ahead by another.
    """
    workers = handle.inode.device.workers
    if mirror.compares and mirror.ahead.note(offset, offset + len(data)):
        _read_ahead(workers, mirror)
    elided = _elide(handle, mirror, offset, data)
    if elided is not Elided.NOTHING:
        handle.pending.settle(offset, offset + len(data))
    if elided is Elided.ALL:
        return BegunWrite(len(data), None)
    if elided is Elided.BUT_TIMES:
        # It is counted: what goes wrong now is told by fsync and close.
        try:
            stamp = workers.begin(writer.stamp, mirror, len(data))
        except OSError as exc:
            handle.pending.note(exc, offset + len(data))
            return BegunWrite(len(data), None)
        return BegunWrite(0, stamp)
    taken = _extend(handle, mirror, offset, data)
    handle.pending.settle(offset, offset + taken)
    if taken == len(data):
        return BegunWrite(taken, None)
    where, rest = offset + taken, bytes(data[taken:])
    try:
        call = workers.begin(writer.write, mirror, where, rest)
    except OSError as exc:
        handle.pending.note(exc, where)
        raise
    return BegunWrite(taken, call)


def _read_ahead(workers: Threads, mirror: OpenFile) -> None:
    try:
        fd = os.dup(mirror.fd)  # it may be at work when the file is closed
    except OSError:  # there are too many; the write does without
        mirror.ahead.not_now()
        return
    workers.start(mirror.ahead.read, fd, mirror.is_seek_trusted)


def _elide(handle: FileHandle, mirror: OpenFile, offset: int, data: Data) -> Elided:
    device = handle.inode.device
    if not device.is_local:
        return Elided.NOTHING
    try:
        return unchanged_fast_path.elide(mirror, offset, data, device.is_prompt)
    except OSError:  # a thread will meet it, too, and knows what to do about it
        return Elided.NOTHING


def _extend(handle: FileHandle, mirror: OpenFile, offset: int, data: Data) -> int:
    if not handle.inode.device.is_prompt:
        return 0
    try:
        return append_fast_path.extend(mirror, offset, data)
    except OSError:  # as above
        return 0


def may_read(handle: FileHandle) -> bool:
    """Whether what is in memory of an open file can be read without waiting."""
    fd, flags, _ = handle.reader
    return handle.inode.device.is_local and not atime.is_due(fd, flags)


class AtOnce:
    """What the extension calls. `is_idle` tells it that nobody waits for what will come soon."""

    def __init__(self, operations: SparseOperations) -> None:
        self._operations = operations
        self._state = operations.state
        self._handles = operations.handles
        self._inodes = operations.inodes
        self._devices = operations.devices
        self._mirrors = operations.mirrors
        eager = Eager(operations)
        self.handlers = {
            Opcode.READ: self._guarded(self.read),
            Opcode.WRITE: self._guarded(self.write),
            Opcode.FORGET: self._guarded(self.forget),
            Opcode.BATCH_FORGET: self._guarded(self.batch_forget),
            **{code: self._guarded(begin) for code, begin in eager.handlers.items()},
        }

    def _guarded(self, handler: Handler) -> Handler:
        def call(node_id: int, message: memoryview) -> Answer:
            try:
                return handler(node_id, message)
            except Exception as exc:
                return guard.answer_to(self._operations, handler.__name__, exc)

        return call

    def is_idle(self) -> bool:
        return not self._devices.is_slow

    def write(self, _node_id: int, message: memoryview) -> Answer:
        fh, offset, size, flags = protocol.WRITE_IN.unpack_from(message)
        self._note_writer(fh, message)
        if self._is_to_be_synced(fh, flags):
            return None
        handle = self._handles.any(fh)  # none, if the number has a tag (`extension`)
        if not isinstance(handle, FileHandle) or handle.mirror is None or handle.synchronous:
            return None
        data = message[protocol.WRITE_IN.size :]
        begun = begin_write(handle, handle.mirror, offset, data)
        if begun.call is not None and not self._is_whole(
            handle, begun.call, offset + begun.taken, size - begun.taken
        ):
            handle.begun = begun
            return None
        return protocol.WRITE_OUT.pack(size)

    def _note_writer(self, fh: int, message: memoryview) -> None:
        """Tell the handler of a write that takes setuid and setgid who writes."""
        if fh & extension.KILLS_SETID:
            handle = self._handles.any(fh & ~extension.TAGS)
            if isinstance(handle, FileHandle):
                handle.writer = Credentials(*protocol.REQUESTER.unpack_from(message))

    def _is_to_be_synced(self, fh: int, flags: int) -> bool:
        """Whether a direct write is to be on the disk when it is answered; its handler is told."""
        if not flags & os.O_DSYNC:
            return False
        handle = self._handles.any(fh & ~extension.TAGS)
        if not isinstance(handle, FileHandle) or not handle.is_direct:
            return False
        handle.sync_flags = flags
        return True

    def _is_whole(self, handle: FileHandle, call: Call[Taken], offset: int, size: int) -> bool:
        """Whether a call has taken all of its `size` bytes by now. If not, it is to be finished."""
        if not call.is_done or not isinstance(call.result, outcome.Value):
            return False
        if call.result.value.size != size:
            return False
        handle.pending.note_taken(offset, handle.inode.device.workers.result(call))
        return True

    def read(self, _node_id: int, message: memoryview) -> Answer:
        fh, offset, size = protocol.READ_IN.unpack_from(message)
        handle = self._handles.any(fh)
        if not isinstance(handle, FileHandle) or handle.fd < 0:
            return None
        inode = handle.inode
        if not may_read(handle) or self._mirrors.tail_of(inode) is not None:
            return None
        flags = self._inodes.abilities(inode).no_wait_flags
        data = basis.read_cached(handle.fd, offset, offset + size, flags)
        if data is None or self._mirrors.tail_of(inode) is not None:
            return None  # one may have begun meanwhile, and what was read be old
        self._state.account.add_read(inode.key, size)
        return data

    def forget(self, node_id: int, message: memoryview) -> Answer:
        self._state.forget(node_id, protocol.FORGET_IN.unpack_from(message)[0])
        return _DONE

    def batch_forget(self, _node_id: int, message: memoryview) -> Answer:
        begin, one = protocol.BATCH_FORGET_IN, protocol.FORGET_ONE
        (count,) = begin.unpack_from(message)
        for place in range(count):
            self._state.forget(*one.unpack_from(message, begin.size + one.size * place))
        return _DONE
