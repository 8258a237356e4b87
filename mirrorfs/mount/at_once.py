"""Requests that are answered where they are received, without a coroutine, a thread or a copy.

The extension shows each request of these kinds in the kernel's own form (linux/fuse.h), and is
given the answer, or None: then it goes to pyfuse3, and its handler in `operations` or `names`, as
if it had not been here. Nothing here waits for a disk, a lock or a client, but a write waits a
moment for the thread that does it (`workers`); the handler goes on with what was begun. The
handlers are for what takes longer, and for a mount without the extension, in which they do the same
as is done here.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import outcome

from mirrorfs.backing import atime, syscalls
from mirrorfs.mirror import basis, elision, fresh, writer
from mirrorfs.mount import guard
from mirrorfs.mount.control import ControlFolder
from mirrorfs.mount.handles import BegunWrite, FileHandle

if TYPE_CHECKING:
    from mirrorfs.backing.syscalls import Status
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.file import MirrorFile
    from mirrorfs.mirror.plan import Data
    from mirrorfs.mount.inodes import Inode
    from mirrorfs.mount.sparse import SparseOperations
    from mirrorfs.mount.workers import Call, Workers

# linux/fuse.h: enum fuse_opcode, and the structures of that name.
_LOOKUP, _FORGET, _GETATTR, _READ, _WRITE, _RELEASE, _FLUSH = 1, 2, 3, 15, 16, 18, 25
_BATCH_FORGET = 42
_FH = struct.Struct("=Q")
_COUNT = struct.Struct("=Q")  # in a batch, of 32 bits and as many of padding
_FORGOTTEN = struct.Struct("=QQ")
_READ_IN = struct.Struct("=QQII16x")
_WRITE_IN = struct.Struct("=QQIIQII")
_WRITE_OUT = struct.Struct("=II")
_ATTR = "QQQqqqIIIIIIIIII"
_ATTR_OUT = struct.Struct("=QII" + _ATTR)
_ENTRY_OUT = struct.Struct("=QQQQII" + _ATTR)
_NS = 1_000_000_000
_DONE = b""

# An errno, what is sent, or "not at once"; to a node id, and what follows the header of a request.
Answer = int | bytes | bytearray | None
Handler = Callable[[int, memoryview], Answer]


def begin_write(
    handle: FileHandle, mirror: MirrorFile, offset: int, data: Data, account: Account
) -> BegunWrite:
    """Take what can be taken of a write without waiting, and begin the rest in a thread. What may
    come next is read ahead by another.
    """
    workers = handle.inode.device.workers
    if mirror.compares and mirror.ahead.note(offset, offset + len(data)):
        _read_ahead(workers, mirror)
    taken = _take(handle, mirror, offset, data, account)
    if taken == len(data):
        return BegunWrite(taken, None)
    where, rest = offset + taken, bytes(data[taken:])
    call = workers.begin(writer.write, mirror, handle.pending, where, rest, account)
    return BegunWrite(taken, call)


def _read_ahead(workers: Workers, mirror: MirrorFile) -> None:
    try:
        fd = os.dup(mirror.fd)  # it may be at work when the file is closed
    except OSError:  # there are too many; the write does without
        mirror.ahead.not_now()
        return
    workers.start(mirror.ahead.read, fd, mirror.is_seek_trusted)


def _take(handle: FileHandle, mirror: MirrorFile, offset: int, data: Data, account: Account) -> int:
    device, pending = handle.inode.device, handle.pending
    try:
        is_prompt = device.is_prompt
        if device.is_local and elision.elide(mirror, pending, offset, data, account, is_prompt):
            return len(data)
        if is_prompt:
            return fresh.extend(mirror, pending, offset, data, account)
    except OSError:  # a thread will meet it, too, and knows what to do about it
        pass
    return 0


def may_read(handle: FileHandle) -> bool:
    """Whether what is in memory of an open file can be read without waiting."""
    fd, flags = handle.reader
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
        seconds, rest = divmod(round(operations.state.options.attr_timeout * _NS), _NS)
        self._timeout = (seconds, rest)
        self.handlers = {
            _LOOKUP: self._guarded(self.lookup),
            _GETATTR: self._guarded(self.getattr),
            _READ: self._guarded(self.read),
            _WRITE: self._guarded(self.write),
            _FLUSH: self._guarded(self.flush),
            _RELEASE: self._guarded(self.release),
            _FORGET: self._guarded(self.forget),
            _BATCH_FORGET: self._guarded(self.batch_forget),
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
        fh, offset, size, _, _, _, _ = _WRITE_IN.unpack_from(message)
        handle = self._handles.any(fh)  # none, if the number has a tag (`extension`)
        if not isinstance(handle, FileHandle) or handle.mirror is None or handle.synchronous:
            return None
        data = message[_WRITE_IN.size :]
        begun = begin_write(handle, handle.mirror, offset, data, self._state.account)
        if begun.call is not None and not self._is_whole(handle, begun.call, size - begun.taken):
            handle.begun = begun
            return None
        return _WRITE_OUT.pack(size, 0)

    def _is_whole(self, handle: FileHandle, call: Call[int], size: int) -> bool:
        """Whether a call has taken all of its `size` bytes by now. If not, it is to be finished."""
        if not call.is_done or not isinstance(call.result, outcome.Value):
            return False
        return call.result.value == size and handle.inode.device.workers.result(call) == size

    def read(self, _node_id: int, message: memoryview) -> Answer:
        fh, offset, size, _ = _READ_IN.unpack_from(message)
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

    def flush(self, _node_id: int, message: memoryview) -> Answer:
        handle = self._handles.any(_FH.unpack_from(message)[0])
        if not isinstance(handle, FileHandle):
            return None
        mirror = handle.mirror
        if mirror is None:
            return _DONE
        if mirror.tail is not None or handle.pending.code or not mirror.abilities.trusted_seek:
            return None
        return _DONE

    def release(self, _node_id: int, message: memoryview) -> Answer:
        fh = _FH.unpack_from(message)[0]
        handle = self._handles.any(fh)
        if not isinstance(handle, FileHandle):
            return None
        if handle.mirror is not None and not self._mirrors.let_go(handle.inode, handle.mirror):
            return None
        self._handles.pop(fh)
        if handle.fd >= 0:
            handle.inode.device.workers.start(os.close, handle.fd)
        self._inodes.release(handle.inode)
        return _DONE

    def forget(self, node_id: int, message: memoryview) -> Answer:
        self._state.forget(node_id, _COUNT.unpack_from(message)[0])
        return _DONE

    def batch_forget(self, _node_id: int, message: memoryview) -> Answer:
        count = _COUNT.unpack_from(message)[0] & 0xFFFFFFFF
        for place in range(count):
            self._state.forget(*_FORGOTTEN.unpack_from(message, _COUNT.size * (1 + 2 * place)))
        return _DONE

    def getattr(self, node_id: int, _message: memoryview) -> Answer:
        if ControlFolder.owns(node_id):
            return None
        inode = self._inodes.at_hand(node_id)
        if inode is None or not inode.device.is_local:
            return None
        status = syscalls.statx(inode.fd, ask=False)
        return _ATTR_OUT.pack(*self._timeout, 0, *self._attributes(inode, status))

    def lookup(self, node_id: int, message: memoryview) -> Answer:
        name = bytes(message).rstrip(b"\0")
        if ControlFolder.owns(node_id) or self._operations._is_ours(node_id, name):
            return None
        parent = self._inodes.at_hand(node_id)
        if parent is None or not parent.device.is_local:
            return None
        try:
            fd = syscalls.open_cached(parent.fd, name, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return errno.ENOENT
        except OSError:
            return None
        try:
            status = syscalls.statx(fd, ask=False)
        except OSError:
            os.close(fd)
            return None
        if status.dev != parent.device.dev:
            os.close(fd)
            return None
        inode = self._inodes.adopt(status, parent, name, fd)
        (seconds, rest), attributes = self._timeout, self._attributes(inode, status)
        return _ENTRY_OUT.pack(inode.node_id, 0, seconds, seconds, rest, rest, *attributes)

    def _attributes(self, inode: Inode, status: Status) -> tuple[int, ...]:
        """A struct fuse_attr."""
        status = self._mirrors.visible(inode, status)
        (a, a_ns), (m, m_ns), (c, c_ns) = (
            divmod(status.atime_ns, _NS),
            divmod(status.mtime_ns, _NS),
            divmod(status.ctime_ns, _NS),
        )
        return (
            inode.node_id, status.size, status.blocks, a, m, c, a_ns, m_ns, c_ns, status.mode,
            status.nlink, status.uid, status.gid, status.rdev & 0xFFFFFFFF, status.blksize, 0,
        )  # fmt: skip
