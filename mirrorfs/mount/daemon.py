"""Run a mount in the foreground, or in a child that outlives the command.

The child is forked before there is any thread, closes its standard streams, and tells its parent
through a pipe that the mount answers, or why not. The parent returns only then.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING

from mirrorfs.errors import ExitCode, MirrorfsError
from mirrorfs.mount import journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.mount.job import Job

log = logging.getLogger(__name__)


def run_foreground(job: Job, ready: Callable[[], None]) -> None:
    """Serve until unmounted or told to stop. Raises MirrorfsError."""
    from mirrorfs.mount.serve import serve

    journal.set_up(job.options.log, foreground=True, debug=job.options.debug)
    serve(job, ready)


def run_background(job: Job) -> str | None:
    """Serve in a child; returns, when the mount answers, a note for the user or None.

    Raises MirrorfsError with the child's reason and exit code if it does not come to that.
    """
    note = journal.set_up(job.options.log, foreground=False, debug=job.options.debug)
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _child(job, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    if answer == b"ready":
        return note
    raise _reason(answer)


def _reason(answer: bytes) -> MirrorfsError:
    if not answer:
        return MirrorfsError(
            "the daemon died before the mount answered; run again with -f to see why"
        )
    told = json.loads(answer)
    error = MirrorfsError(told["message"])
    error.exit_code = ExitCode(told["exit_code"])
    return error


def _child(job: Job, pipe: int) -> None:
    """Never returns."""
    code = ExitCode.FAILED
    told = False

    def ready() -> None:
        nonlocal told
        told = True
        os.write(pipe, b"ready")
        os.close(pipe)

    try:
        os.setsid()
        os.chdir("/")
        _close_streams()
        from mirrorfs.mount.serve import serve

        serve(job, ready)
        code = ExitCode.DONE
    except BaseException as exc:
        if not isinstance(exc, MirrorfsError):
            log.exception("the daemon failed")
        if not told:
            code = exc.exit_code if isinstance(exc, MirrorfsError) else ExitCode.FAILED
            os.write(
                pipe, json.dumps({"message": str(exc) or repr(exc), "exit_code": code}).encode()
            )
    finally:
        logging.shutdown()
        os._exit(code)


def _close_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if null > 2:
        os.close(null)
