"""From the extension's calls to handlers and back: each request is answered exactly once.

The calls come inside pyfuse3's loop. What can be answered at once is; the rest becomes a task of
its own, of which a bounded number runs at a time on each device. A request whose task is cut off by
the end of the mount is dropped, which the extension answers with EIO.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pyfuse3

from mirrorfs.backing.credentials import Credentials
from mirrorfs.fs.handles import ControlHandle, FileHandle
from mirrorfs.fuse import guard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from mirrorfs._fuseext import Request
    from mirrorfs.fs.sparse import SparseOperations


class Dispatcher:
    """The three calls of the extension. `nursery` runs the tasks, and is set before the first."""

    def __init__(self, operations: SparseOperations) -> None:
        self._operations = operations
        self.nursery: trio.Nursery | None = None

    def fallocate(
        self, request: Request, _node_id: int, fh: int, mode: int, offset: int, length: int
    ) -> None:
        arguments = (fh, mode, offset, length, _caller(request))
        self._start(request, fh, _done, self._operations.fallocate, *arguments)

    def copy_file_range(
        self,
        request: Request,
        _node_in: int,
        fh_in: int,
        offset_in: int,
        _node_out: int,
        fh_out: int,
        offset_out: int,
        length: int,
        flags: int,
    ) -> None:
        def is_interrupted() -> bool:
            return request.interrupted

        arguments = (
            fh_in, offset_in, fh_out, offset_out, length, flags, _caller(request), is_interrupted
        )  # fmt: skip
        self._start(request, fh_out, _written, self._operations.copy_file_range, *arguments)

    def lseek(self, request: Request, _node_id: int, fh: int, offset: int, whence: int) -> None:
        try:
            position = self._operations.lseek_at_once(fh, offset, whence)
        except Exception as exc:
            request.error(guard.answer_to(self._operations, "lseek", exc))
            return
        if position is None:
            self._start(request, fh, _offset, self._operations.lseek, fh, offset, whence)
        else:
            request.offset(position)

    def _start(
        self,
        request: Request,
        fh: int,
        answer: Callable[[Request, Any], None],
        handler: Callable[..., Awaitable[object]],
        *arguments: object,
    ) -> None:
        handle = self._operations.handles.any(fh)
        if isinstance(handle, ControlHandle):
            request.error(errno.EOPNOTSUPP)
        elif not isinstance(handle, FileHandle):
            request.error(errno.EBADF)
        elif self.nursery is not None:
            limiter = handle.inode.device.long_calls
            self.nursery.start_soon(self._run, limiter, request, answer, handler, arguments)

    async def _run(
        self,
        limiter: trio.CapacityLimiter,
        request: Request,
        answer: Callable[[Request, Any], None],
        handler: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
    ) -> None:
        async with limiter:
            try:
                result = await handler(*arguments)
            except pyfuse3.FUSEError as exc:
                request.error(exc.errno)
            else:
                answer(request, result)


def _caller(request: Request) -> Credentials:
    return Credentials(request.uid, request.gid, request.pid)


def _done(request: Request, _result: None) -> None:
    request.error(0)


def _written(request: Request, count: int) -> None:
    request.written(count)


def _offset(request: Request, position: int) -> None:
    request.offset(position)
