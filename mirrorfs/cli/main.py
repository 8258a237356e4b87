"""Run a command, and turn every expected failure into one line on stderr and an exit code.

Guarantees: SIGINT, SIGTERM and SIGHUP end a command without a traceback and with the exit code
128 + N. They do so by SystemExit, so what the command has begun is undone by its own `finally`; a
second signal may end that, too. A signal that was ignored from the start, as by nohup(1), stays so.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

from mirrorfs.cli.output import note
from mirrorfs.errors import ExitCode, MirrorfsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from _typeshed import ReadableBuffer

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` says, or the words of the process; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return with_signals(lambda: _run(words))


def with_signals(call: Callable[[], int]) -> int:
    """What `call` returns, or 128 + N if signal N has ended it."""
    try:
        for number in _ENDING_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _end)
        return call()
    except SystemExit as exc:
        with contextlib.suppress(OSError):
            _flush()
        return int(exc.code or 0)
    finally:
        # The exit code is decided; a signal while the interpreter ends would only make noise.
        for number in _ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    # An exception in a callback of a weak reference, as the import system has them, would be
    # printed and dropped.
    if frame is not None and frame.f_code.co_filename == _IMPORT_SYSTEM:
        signal.signal(signal.SIGALRM, lambda _number, later: _end(number, later))
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        return
    raise SystemExit(128 + number)


def _run(words: list[str]) -> int:
    from mirrorfs.cli import commands

    mount8 = commands.is_mount8(words)
    is_plugin = words[:1] != [] and words[0] in commands.PLUGINS
    code = guarded(lambda: commands.run(words), _say_unknown if is_plugin else _say)
    return int(ExitCode.MOUNT_FAILED if mount8 and code else code)


def guarded(call: Callable[[], int], say: Callable[[str, int], int]) -> int:
    """What `call` returns; or, for an expected failure, what `say` returns for its text and exit
    code.
    """
    try:
        _open_streams()
        code = call()
        _flush()
        return code
    except MirrorfsError as exc:
        code = say(str(exc), exc.exit_code)
    except BrokenPipeError:
        # The reader has gone (`mirrorfs stats | head -1`); nothing more can be said to it.
        code = 128 + signal.SIGPIPE
    except MemoryError:
        code = say("not enough memory; is it limited (ulimit -v)?", ExitCode.FAILED)
    except OSError as exc:
        where = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
        code = say(f"{where}{exc.strerror or exc}", ExitCode.FAILED)
    with contextlib.suppress(OSError):
        _flush()
    return code


def _say(text: str, code: int) -> int:
    note(text)
    return code


def _say_unknown(text: str, _code: int) -> int:
    """What a monitoring plugin says of what it could not judge; returns its exit code."""
    from mirrorfs.cli import check

    with contextlib.suppress(OSError):
        check.say_unknown(text)
        _flush()
    return check.UNKNOWN


def _open_streams() -> None:
    """Let each standard stream lead somewhere, so that no file that a command opens gets its
    number; and let stdout take any name.
    """
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            break
    if sys.stdout is not None:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(1, "w", closefd=False)),
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.isatty(),
        )


class _Output(io.FileIO):
    """Standard output that is named in the error where it cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, "standard output") from None


def _flush() -> None:
    """Write out what was printed; after a failure the rest is dropped, so that the interpreter does
    not try again when it ends.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise


if __name__ == "__main__":
    sys.exit(main())
