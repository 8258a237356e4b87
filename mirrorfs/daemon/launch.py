"""Run a mount in the foreground, or in a child that outlives the command.

The child is forked before there is any thread, keeps no descriptor that it does not need, and tells
its parent through a pipe that the mount answers, or why not. The parent returns only then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from mirrorfs.backing import mounts
from mirrorfs.daemon import log_setup, places
from mirrorfs.daemon.descriptors import close_inherited
from mirrorfs.errors import ExitCode, MirrorfsError, NoAnswerError, retold

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.daemon.mount_spec import MountSpec

log = logging.getLogger(__name__)

_READY = b"ready"
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_COMMAND_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def run_foreground(job: MountSpec, ready: Callable[[], None]) -> None:
    """Serve until unmounted or told to stop. Raises MirrorfsError."""
    from mirrorfs.daemon.main_loop import serve

    _set_up_log(job, foreground=True)
    serve(job, ready)


def run_background(job: MountSpec) -> str | None:
    """Serve in a child; returns, when the mount answers, a note for the user or None.

    Raises MirrorfsError with the child's reason and exit code if it does not come to that. Then,
    and after Ctrl-C, neither the child nor its mount is left.
    """
    note = _set_up_log(job, foreground=False)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):
            stream.flush()
    reading, writing = os.pipe()
    # A signal right after the fork would else run the command's handlers in the child.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _COMMAND_SIGNALS)
    pid = os.fork()
    if pid == 0:
        _child(job, writing)
    os.close(writing)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        answer = _read(reading)
        # What is mounted now stays, and the command only has to say so.
        signal.pthread_sigmask(signal.SIG_BLOCK, _COMMAND_SIGNALS)
    except BaseException:
        _stop(pid, job.mount_point)
        raise
    if answer == _READY:
        return note
    raise _reason(answer)


def _set_up_log(job: MountSpec, foreground: bool) -> str | None:
    options = job.options
    return log_setup.set_up(options.log, job.mount_point, foreground, options.debug)


def _read(pipe: int) -> bytes:
    """What the child tells; NoAnswerError if that takes too long."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    end = time.monotonic() + _START_SECONDS
    told = b""
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        piece = os.read(pipe, 1 << 16)
        told += piece
        if not piece or told == _READY:
            return told
    raise NoAnswerError(
        f"the mount did not answer within {_START_SECONDS:.0f} seconds; "
        "run again with -f to see why"
    )


def _stop(pid: int, mount_point: bytes) -> None:
    """End the child, and take away the mount that it may have made and left."""
    watch = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 1.0)):
        signal.pidfd_send_signal(watch, number)
        if poll.poll(seconds * 1000):
            break
    mount = mounts.mounted_at(mount_point)
    if mount is not None and mount.fs_type == mounts.MIRRORFS_TYPE:
        with contextlib.suppress(MirrorfsError, OSError):
            places.clear_dead(mount)


def _reason(answer: bytes) -> MirrorfsError:
    if not answer:
        return MirrorfsError(
            "the daemon died before the mount answered; run again with -f to see why"
        )
    told = json.loads(answer)
    return retold(told["message"], told["exit_code"])


def _child(job: MountSpec, pipe: int) -> NoReturn:
    code = ExitCode.FAILED
    told = False

    def ready() -> None:
        nonlocal told
        told = True
        os.write(pipe, _READY)
        os.close(pipe)

    try:
        _leave_terminal()
        os.chdir("/")
        kept = {pipe, job.backing_fd, job.state_folder.lock_fd}
        close_inherited({*kept, *log_setup.descriptors()})
        from mirrorfs.daemon.main_loop import serve

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


def _leave_terminal() -> None:
    """Become a session of its own, out of reach of the terminal's Ctrl-C and of its end. SIGHUP,
    with which log files are rotated, stays ignored: the log needs none (`journal`).
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # also forgets one that has come meanwhile
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _COMMAND_SIGNALS)
