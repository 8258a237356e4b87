"""Handlers that are begun where their request is received, and mostly end there.

A request that goes through pyfuse3 costs a coroutine and a turn of the event loop, and the next one
finds nobody awake. Most handlers come to their end without that, because a thread's call that takes
a moment is waited for (`workers`). So the extension shows us the request (`at_once`), and its
handler is begun here, by hand.

One that has to wait after all is left where it stands (`Begun`), and the request is passed on to
pyfuse3, which then calls the same handler for it: in the same task, and before anything else can
run (pyfuse3, internal.pxi, _session_loop). `guard` goes on there with what was begun. So what the
handler waits with, cancel scopes included, belongs to the right task from the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyfuse3

from mirrorfs.fuse import protocol
from mirrorfs.fuse.protocol import Answer, Handler, Opcode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from mirrorfs.fs.files import Operations

_NS = 1_000_000_000
_DONE = b""


class Requester(NamedTuple):
    """Who makes a request, in place of pyfuse3's RequestContext."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


class Fields(NamedTuple):
    """What a setattr request sets, in place of pyfuse3's SetattrFields."""

    update_mode: bool
    update_uid: bool
    update_gid: bool
    update_size: bool
    update_atime: bool
    update_mtime: bool


Context = pyfuse3.RequestContext | Requester
AnyFields = pyfuse3.SetattrFields | Fields


class Begun:
    """A handler that waits for something: to be awaited once, in the task in which it was begun.

    `name` is the handler's, and `of` its first argument; `trap` is what it has given the event
    loop, which has yet to get it.
    """

    def __init__(
        self, name: str, of: int, coroutine: Coroutine[Any, Any, Any], trap: object
    ) -> None:
        self.name = name
        self.of = of
        self._coroutine = coroutine
        self._trap = trap

    def __await__(self) -> Generator[Any, Any, Any]:
        trap = self._trap
        while True:
            received = yield trap
            try:
                trap = self._coroutine.send(received)
            except StopIteration as end:
                return end.value


class Eager:
    """What the extension calls: `handlers`, by opcode."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.handlers: dict[int, Handler] = {
            Opcode.LOOKUP: self.lookup,
            Opcode.GETATTR: self.getattr,
            Opcode.FLUSH: self.flush,
            Opcode.RELEASE: self.release,
            Opcode.SETATTR: self.setattr,
            Opcode.MKDIR: self.mkdir,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
            Opcode.OPEN: self.open,
            Opcode.OPENDIR: self.opendir,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.CREATE: self.create,
        }

    def _begin(
        self,
        name: str,
        of: int,
        coroutine: Coroutine[Any, Any, Any],
        pack: Callable[[Any], bytes],
    ) -> Answer:
        try:
            trap = coroutine.send(None)
        except StopIteration as end:
            return pack(end.value)
        except pyfuse3.FUSEError as exc:
            return exc.errno
        self._operations.begun = Begun(name, of, coroutine, trap)
        return None

    def lookup(self, node_id: int, message: memoryview) -> Answer:
        name = _name(message, protocol.HEADER_BYTES)
        return self._begin(
            "lookup", node_id, self._operations.lookup(node_id, name, None), _pack_entry
        )

    def getattr(self, node_id: int, _message: memoryview) -> Answer:
        looking = self._operations.getattr(node_id, None)
        return self._begin("getattr", node_id, looking, _pack_attributes)

    def flush(self, _node_id: int, message: memoryview) -> Answer:
        (fh,) = protocol.FH_IN.unpack_from(message)
        return self._begin("flush", fh, self._operations.flush(fh), _pack_nothing)

    def release(self, _node_id: int, message: memoryview) -> Answer:
        (fh,) = protocol.FH_IN.unpack_from(message)
        return self._begin("release", fh, self._operations.release(fh), _pack_nothing)

    def open(self, node_id: int, message: memoryview) -> Answer:
        (flags,) = protocol.OPEN_IN.unpack_from(message)
        opening = self._operations.open(node_id, flags, _requester(message))
        return self._begin("open", node_id, opening, _pack_open)

    def create(self, node_id: int, message: memoryview) -> Answer:
        flags, mode, umask = protocol.CREATE_IN.unpack_from(message)
        name = _name(message, protocol.CREATE_IN.size)
        caller = _requester(message, umask)
        creating = self._operations.create(node_id, name, mode, flags, caller)
        return self._begin("create", node_id, creating, _pack_created)

    def mkdir(self, node_id: int, message: memoryview) -> Answer:
        mode, umask = protocol.MKDIR_IN.unpack_from(message)
        name = _name(message, protocol.MKDIR_IN.size)
        making = self._operations.mkdir(node_id, name, mode, _requester(message, umask))
        return self._begin("mkdir", node_id, making, _pack_entry)

    def unlink(self, node_id: int, message: memoryview) -> Answer:
        name = _name(message, protocol.HEADER_BYTES)
        return self._begin(
            "unlink", node_id, self._operations.unlink(node_id, name, None), _pack_nothing
        )

    def rmdir(self, node_id: int, message: memoryview) -> Answer:
        name = _name(message, protocol.HEADER_BYTES)
        return self._begin(
            "rmdir", node_id, self._operations.rmdir(node_id, name, None), _pack_nothing
        )

    def rename(self, node_id: int, message: memoryview) -> Answer:
        (new_parent_id,) = protocol.RENAME_IN.unpack_from(message)
        return self._rename(node_id, new_parent_id, 0, message, protocol.RENAME_IN.size)

    def rename2(self, node_id: int, message: memoryview) -> Answer:
        new_parent_id, flags = protocol.RENAME2_IN.unpack_from(message)
        return self._rename(node_id, new_parent_id, flags, message, protocol.RENAME2_IN.size)

    def _rename(
        self, parent_id: int, new_parent_id: int, flags: int, message: memoryview, start: int
    ) -> Answer:
        old = _name(message, start)
        new = _name(message, start + len(old) + 1)
        caller = _requester(message)
        renaming = self._operations.rename(parent_id, old, new_parent_id, new, flags, caller)
        return self._begin("rename", parent_id, renaming, _pack_nothing)

    def opendir(self, node_id: int, message: memoryview) -> Answer:
        (flags,) = protocol.OPEN_IN.unpack_from(message)
        opening = self._operations.opendir(node_id, None, flags)
        return self._begin("opendir", node_id, opening, _pack_folder)

    def releasedir(self, _node_id: int, message: memoryview) -> Answer:
        (fh,) = protocol.FH_IN.unpack_from(message)
        return self._begin("releasedir", fh, self._operations.releasedir(fh), _pack_nothing)

    def setattr(self, node_id: int, message: memoryview) -> Answer:
        valid, fh, size, atime, mtime, atime_ns, mtime_ns, mode, uid, gid = (
            protocol.SETATTR_IN.unpack_from(message)
        )
        attr = pyfuse3.EntryAttributes()
        attr.st_mode, attr.st_uid, attr.st_gid, attr.st_size = mode, uid, gid, size
        # A time that is to be now is in the request, too, by the clock that stamps files.
        attr.st_atime_ns = atime * _NS + atime_ns
        attr.st_mtime_ns = mtime * _NS + mtime_ns
        fields = Fields(
            bool(valid & protocol.FATTR_MODE),
            bool(valid & protocol.FATTR_UID),
            bool(valid & protocol.FATTR_GID),
            bool(valid & protocol.FATTR_SIZE),
            bool(valid & protocol.FATTR_ATIME),
            bool(valid & protocol.FATTR_MTIME),
        )
        handle = fh if valid & protocol.FATTR_FH else None
        setting = self._operations.setattr(node_id, attr, fields, handle, _requester(message))
        return self._begin("setattr", node_id, setting, _pack_attributes)


def _requester(message: memoryview, umask: int = 0) -> Requester:
    uid, gid, pid = protocol.REQUESTER.unpack_from(message)
    return Requester(uid, gid, pid, umask)


def _name(message: memoryview, start: int) -> bytes:
    """The name at `start`, which ends with a zero."""
    return bytes(message[start:]).partition(b"\0")[0]


def _pack_nothing(_result: None) -> bytes:
    return _DONE


def _pack_open(info: pyfuse3.FileInfo) -> bytes:
    flags = protocol.FOPEN_DIRECT_IO if info.direct_io else 0
    if info.keep_cache:
        flags |= protocol.FOPEN_KEEP_CACHE
    return protocol.OPEN_OUT.pack(info.fh, flags)


def _pack_folder(fh: int) -> bytes:
    return protocol.OPEN_OUT.pack(fh, 0)


def _pack_created(result: tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]) -> bytes:
    info, entry = result
    return _pack_entry(entry) + _pack_open(info)


def _pack_entry(entry: pyfuse3.EntryAttributes) -> bytes:
    seconds, ns = divmod(round(entry.entry_timeout * _NS), _NS)
    attr_seconds, attr_ns = divmod(round(entry.attr_timeout * _NS), _NS)
    return protocol.ENTRY_OUT.pack(
        entry.st_ino,
        entry.generation,
        seconds,
        attr_seconds,
        ns,
        attr_ns,
        *_attributes(entry),
    )


def _pack_attributes(entry: pyfuse3.EntryAttributes) -> bytes:
    seconds, ns = divmod(round(entry.attr_timeout * _NS), _NS)
    return protocol.ATTR_OUT.pack(seconds, ns, *_attributes(entry))


def _attributes(entry: pyfuse3.EntryAttributes) -> tuple[int, ...]:
    """A struct fuse_attr."""
    (a, a_ns), (m, m_ns), (c, c_ns) = (
        divmod(entry.st_atime_ns, _NS),
        divmod(entry.st_mtime_ns, _NS),
        divmod(entry.st_ctime_ns, _NS),
    )
    return (
        entry.st_ino, entry.st_size, entry.st_blocks, a, m, c, a_ns, m_ns, c_ns, entry.st_mode,
        entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev & 0xFFFFFFFF, entry.st_blksize, 0,
    )  # fmt: skip
