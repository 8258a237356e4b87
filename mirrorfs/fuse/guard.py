"""One guard around every handler: whatever goes wrong in one request, the mount lives and the
caller gets an errno.

pyfuse3 ends the mount at any exception that is not FUSEError, a plain OSError included.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pyfuse3

log = logging.getLogger(__name__)
_C = TypeVar("_C", bound=type)
_Handler = Callable[..., Awaitable[Any]]

# Everyday results of asking, not errors: there is no such thing, or it has to be done another way,
# as tools that ask so then do.
_EVERYDAY = {
    "lookup": {errno.ENOENT},
    "getxattr": {errno.ENODATA, errno.EOPNOTSUPP, errno.ERANGE},
    "listxattr": {errno.EOPNOTSUPP},
    "removexattr": {errno.ENODATA, errno.EOPNOTSUPP},
    "lseek": {errno.ENXIO},
    "link": {errno.EXDEV},
    "rename": {errno.EXDEV},
    "fallocate": {errno.EOPNOTSUPP},
    "copy_file_range": {errno.EOPNOTSUPP, errno.EXDEV, errno.EINTR},
}
_SILENT = frozenset({"forget", "release", "releasedir"})


class _Answered(pyfuse3.FUSEError):
    """An error that was logged and counted already: one handler may have called another."""


def guarded(operations: _C) -> _C:
    """Class decorator: wrap every handler that the class defines. Instances have a method
    `count_error(code)`, and `begun`, a guarded handler that is to go on (`eager`), or None.
    """
    for name, handler in list(vars(operations).items()):
        if inspect.iscoroutinefunction(handler) and not name.startswith("_"):
            setattr(
                operations,
                name,
                _silent(name, handler) if name in _SILENT else _guard(name, handler),
            )
    return operations


def answer_to(operations: Any, name: str, error: Exception) -> int:  # noqa: ANN401 - see above
    """The errno for a request whose handler `name` raised `error`, logged and counted as it
    deserves.
    """
    if isinstance(error, _Answered):
        return error.errno
    if isinstance(error, pyfuse3.FUSEError):
        code = error.errno
    elif isinstance(error, OSError):
        code = error.errno or errno.EIO
        if code not in _EVERYDAY.get(name, ()):
            log.debug("%s: %s", name, error)
    elif isinstance(error, MemoryError):
        code = errno.ENOMEM
    else:
        log.error("%s failed unexpectedly; answered with EIO", name, exc_info=error)
        code = errno.EIO
    if code not in _EVERYDAY.get(name, ()):
        operations.count_error(code)
    return code


def _begun(operations: Any, name: str, args: tuple[Any, ...]) -> Any:  # noqa: ANN401 - see above
    """What was begun of this call, if it was."""
    begun, operations.begun = operations.begun, None
    if begun is None or (begun.name, begun.of) == (name, *args[:1]):
        return begun
    log.error("%s was begun, but %s was called; its effect is unknown", begun.name, name)
    return None


def _guard(name: str, handler: _Handler) -> _Handler:
    @functools.wraps(handler)
    async def call(self: Any, *args: Any) -> Any:  # noqa: ANN401 - passed through as it is
        begun = _begun(self, name, args)
        if begun is not None:
            return await begun
        try:
            return await handler(self, *args)
        except Exception as exc:
            code = answer_to(self, name, exc)
        raise _Answered(code)

    return call


def _silent(name: str, handler: _Handler) -> _Handler:
    @functools.wraps(handler)
    async def call(self: Any, *args: Any) -> None:  # noqa: ANN401 - passed through as it is
        begun = _begun(self, name, args)
        if begun is not None:
            await begun
            return
        try:
            await handler(self, *args)
        except OSError as exc:
            self.count_error(exc.errno or errno.EIO)
            log.warning("%s: %s", name, exc)
        except Exception:
            self.count_error(errno.EIO)
            log.exception("%s failed unexpectedly", name)

    return call
