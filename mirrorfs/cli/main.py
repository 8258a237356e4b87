"""Run a command, and turn every expected failure into one line on stderr and an exit code.

What is needed for that is imported here; all else inside, where Ctrl-C is already taken care of.
"""

from __future__ import annotations

from mirrorfs.cli import quiet

# isort: split
import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from mirrorfs.cli.output import note
from mirrorfs.errors import ExitCode, MirrorfsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from _typeshed import ReadableBuffer


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        quiet.listen()
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup(1)
            signal.signal(signal.SIGHUP, _terminate)
        sys.unraisablehook = _unraisable
        return _run(words)
    except (KeyboardInterrupt, SystemExit) as exc:
        with contextlib.suppress(OSError):
            _flush()
        return int(exc.code or 0) if isinstance(exc, SystemExit) else 128 + signal.SIGINT
    finally:
        # What happened is decided; the interpreter only has to end, and say so.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    # Not KeyboardInterrupt: the interpreter may then end by SIGINT, whatever main returns.
    raise SystemExit(128 + number)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """A signal whose exception was lost, since it came during a callback, comes again in a
    moment.
    """
    if not issubclass(lost.exc_type, (KeyboardInterrupt, SystemExit)):
        sys.__unraisablehook__(lost)
        return
    again = lost.exc_value or lost.exc_type()

    def raise_again(_number: int, _frame: FrameType | None) -> NoReturn:
        raise again

    signal.signal(signal.SIGALRM, raise_again)
    signal.setitimer(signal.ITIMER_REAL, 0.001)


def _run(words: list[str]) -> int:
    from mirrorfs.cli import commands

    mount8 = commands.is_mount8(words)
    try:
        _open_streams()
        code = commands.run(words)
        _flush()
        return code
    except MirrorfsError as exc:
        note(str(exc))
        code = exc.exit_code
    except BrokenPipeError:
        # The reader has gone (`mirrorfs stats | head -1`); nothing more can be said to it.
        code = 128 + signal.SIGPIPE
    except MemoryError:
        note("not enough memory; is it limited (ulimit -v)?")
        code = ExitCode.FAILED
    except OSError as exc:
        where = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
        note(f"{where}{exc.strerror or exc}")
        code = ExitCode.FAILED
    with contextlib.suppress(OSError):
        _flush()
    return int(ExitCode.MOUNT_FAILED if mount8 else code)


def _open_streams() -> None:
    """Let each standard stream lead somewhere, so that no file of ours gets its number; and let
    stdout take any name.
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
    """Standard output that says so when it cannot be written."""

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
