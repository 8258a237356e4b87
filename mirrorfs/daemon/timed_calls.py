"""Calls on a path that may lie on a mount whose server does not answer, with a limit of time.

A process that waits for a FUSE server cannot be woken by a handled signal, and once the server has
taken the request not even by SIGKILL (fs/fuse/dev.c, request_wait_answer). So a child process makes
the call, and is left behind if it does not come back. It holds no descriptor but its pipe: a reader
of the command's output does not wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from mirrorfs.backing.paths import show
from mirrorfs.daemon.descriptors import close_inherited
from mirrorfs.errors import MirrorfsError, NoAnswerError, UsageError, from_process

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_SECONDS = 10.0
_REAP_SECONDS = 0.5
_REST_SECONDS = 1
_CHILD_SECONDS = 60
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_MAX_LINKS = 40  # path_resolution(7)

_T = TypeVar("_T")


class TimedCall(Generic[_T]):
    """One call of `function` with `arguments` in a child process, begun at once. Its result is what
    marshal can carry: numbers, bytes, text, tuples, lists.
    """

    def __init__(self, function: Callable[..., _T], *arguments: object) -> None:
        self._reading, writing = os.pipe()
        # A signal between the fork and the child's own handlers would run those of the command in
        # both processes.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _answer(writing, function, arguments)
            self._watch = os.pidfd_open(self._pid)
        finally:
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def fileno(self) -> int:
        """For poll(2): can be read as soon as there is a result, or the child process has ended
        without one.
        """
        return self._reading

    def abandon(self) -> None:
        """Want the result no longer."""
        self._leave()

    def answer(self, end: float) -> _T:
        """The result of the call, which may be read once. Raises the OSError or MirrorfsError of
        the call, and TimeoutError if there is no result at `end` (seconds of time.monotonic).
        """
        try:
            outcome = self._read(end)
        finally:
            self._leave()
        content: list[Any]
        kind, *content = marshal.loads(outcome)
        if kind == "result":
            result: _T = content[0]
            return result
        raise from_process(*content) if kind == "refused" else OSError(*content)

    def _read(self, end: float) -> bytes:
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        outcome = b""
        while poll.poll(max(0.0, end - time.monotonic()) * 1000):
            piece = os.read(self._reading, 1 << 16)
            if not piece and outcome:
                return outcome
            if not piece:
                break
            outcome += piece
            # What has begun to come was made already; the rest takes no longer than to copy it.
            end = max(end, time.monotonic() + _REST_SECONDS)
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def _leave(self) -> None:
        """End the child process; one that waits in the kernel is left to end when its call does."""
        os.close(self._reading)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._watch, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        poll.poll(_REAP_SECONDS * 1000)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)
        os.close(self._watch)


def _answer(pipe: int, function: Callable[..., object], arguments: tuple[object, ...]) -> NoReturn:
    """What the child process does. It ends by itself, should its parent be killed before it."""
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS | {signal.SIGALRM})
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_CHILD_SECONDS)
        close_inherited({pipe})
        with open(pipe, "wb", buffering=0) as writing:
            writing.write(marshal.dumps(_outcome(function, arguments)))
    finally:
        os._exit(0)


def _outcome(function: Callable[..., object], arguments: tuple[object, ...]) -> tuple[Any, ...]:
    try:
        return ("result", function(*arguments))
    except OSError as exc:
        return ("error", exc.errno, exc.strerror, exc.filename)
    except MirrorfsError as exc:
        return ("refused", str(exc), int(exc.exit_code))


def call(
    function: Callable[..., _T], path: bytes, *arguments: object, seconds: float = ANSWER_SECONDS
) -> _T:
    """What `function(path, *arguments)` returns, or its OSError or MirrorfsError; NoAnswerError,
    with the path, if that takes longer than `seconds`.
    """
    try:
        return TimedCall(function, path, *arguments).answer(time.monotonic() + seconds)
    except TimeoutError:
        raise NoAnswerError(
            f"{show(path)}: no answer within {seconds:.0f} seconds; "
            "a disk or a mount on the way to it hangs"
        ) from None


def touch(path: bytes, seconds: float = ANSWER_SECONDS) -> int:
    """Make a call on the file system at `path` that no cache answers, statvfs(2); returns its
    errno, or 0. NoAnswerError after `seconds`.
    """
    return call(_touch, path, seconds=seconds)


def _touch(path: bytes) -> int:
    try:
        os.statvfs(path)
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def resolve(path: bytes) -> bytes:
    """`path` absolute and without symbolic links, as os.path.realpath gives it; names of what does
    not exist stay as they are.

    The server of a mount point is not involved, only those of the folders above it: so the result
    does not depend on whether the mount answers. Raises NoAnswerError if one of those does not
    answer, UsageError for an empty path, OSError (ELOOP) for a circle of links, and MirrorfsError
    where the current folder is needed and was removed.
    """
    if not path:
        raise UsageError("a path is empty; is a variable not set?")
    try:
        folder = os.getcwdb()
    except FileNotFoundError:
        if not path.startswith(b"/"):
            raise MirrorfsError(
                "the current folder has been removed; change to another one first"
            ) from None
        folder = b"/"
    return call(_resolve, path, folder)


def _resolve(path: bytes, folder: bytes) -> bytes:
    done = b"/"
    rest = os.path.join(folder, path).split(b"/")[::-1]
    links = 0
    while rest:
        name = rest.pop()
        if name in {b"", b"."}:
            continue
        if name == b"..":
            done = os.path.dirname(done)
            continue
        step = os.path.join(done, name)
        try:
            # For the root of a mount the kernel answers readlink(2) with EINVAL by itself, where
            # lstat(2) would need the server.
            target = os.readlink(step)
        except OSError:
            done = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith(b"/"):
            done = b"/"
        rest += target.split(b"/")[::-1]
    return done
