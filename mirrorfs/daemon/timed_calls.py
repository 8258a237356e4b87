"""Touch a path that may lie on a mount whose server does not answer, without waiting for ever.

Whoever waits for a FUSE server cannot be woken by a handled signal, and once the server has taken
the request not even by SIGKILL (fs/fuse/dev.c, request_wait_answer). So a child process asks, and
is left behind if it does not come back. It holds no descriptor but its pipe, so that nobody who
reads our output waits for it.
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
from mirrorfs.errors import MirrorfsError, NoAnswerError, UsageError, retold

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_SECONDS = 10.0
_REAP_SECONDS = 0.5
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_MAX_LINKS = 40  # path_resolution(7)

_T = TypeVar("_T")


class TimedCall(Generic[_T]):
    """One call in a child process, begun at once. Its result is what marshal can carry: numbers,
    bytes, tuples.
    """

    def __init__(self, call: Callable[..., _T], *words: object) -> None:
        self._reading, writing = os.pipe()
        # A signal between fork and the child's own handlers would run ours in both.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _answer(writing, call, words)
            self._watch = os.pidfd_open(self._pid)
        finally:
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def answer(self, end: float) -> _T:
        """The result, or the call's own OSError or MirrorfsError; TimeoutError if there is none at
        `end` (time.monotonic).
        """
        try:
            told = self._read(end)
        finally:
            self._leave()
        content: list[Any]
        kind, *content = marshal.loads(told)
        if kind == "result":
            result: _T = content[0]
            return result
        raise retold(*content) if kind == "refused" else OSError(*content)

    def _read(self, end: float) -> bytes:
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        told = b""
        while poll.poll(max(0.0, end - time.monotonic()) * 1000):
            piece = os.read(self._reading, 1 << 16)
            if not piece and told:
                return told
            if not piece:
                break
            told += piece
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def _leave(self) -> None:
        """End the child; one that cannot even be killed is left to end when it is answered."""
        os.close(self._reading)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._watch, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        poll.poll(_REAP_SECONDS * 1000)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)
        os.close(self._watch)


def _answer(pipe: int, call: Callable[..., object], words: tuple[object, ...]) -> NoReturn:
    """What the child does. It ends by itself, should the parent be killed before it."""
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS | {signal.SIGALRM})
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        close_inherited({pipe})
        with open(pipe, "wb", buffering=0) as writing:
            writing.write(marshal.dumps(_outcome(call, words)))
    finally:
        os._exit(0)


def _outcome(call: Callable[..., object], words: tuple[object, ...]) -> tuple[Any, ...]:
    try:
        return ("result", call(*words))
    except OSError as exc:
        return ("error", exc.errno, exc.strerror, exc.filename)
    except MirrorfsError as exc:
        return ("refused", str(exc), int(exc.exit_code))


def ask(
    call: Callable[..., _T], path: bytes, *words: object, seconds: float = ANSWER_SECONDS
) -> _T:
    """`call(path, *words)`; NoAnswerError, naming the path, if that takes longer than `seconds`."""
    try:
        return TimedCall(call, path, *words).answer(time.monotonic() + seconds)
    except TimeoutError:
        raise NoAnswerError(
            f"{show(path)}: no answer within {seconds:.0f} seconds; "
            "a disk or a mount on the way to it hangs"
        ) from None


def touch(path: bytes, seconds: float = ANSWER_SECONDS) -> int:
    """Ask the file system at `path` something that no cache answers; returns the errno, or 0.

    NoAnswerError if it does not come.
    """
    return ask(_touch, path, seconds=seconds)


def _touch(path: bytes) -> int:
    try:
        os.statvfs(path)
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def resolve(path: bytes) -> bytes:
    """`path` absolute and without symbolic links, as os.path.realpath gives it; what is missing is
    taken as it is.

    A mount point is not asked for that, only the folders above it: so the result does not depend on
    whether the mount answers. NoAnswerError if one of those does not.
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
    return ask(_resolve, path, folder)


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
            # readlink(2) answers EINVAL for the root of a mount without asking its server, which
            # lstat(2) would do.
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
