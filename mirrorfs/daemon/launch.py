"""Run a mount in the foreground, or in a child process that outlives the command.

The child is forked before there is any thread, keeps no descriptor that it does not need, and
writes into a pipe that the mount answers, or why not. The parent returns only then.

Guarantees: `run_background` returns when the mount answers, or leaves neither child nor mount, also
where a signal ends it.
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
from mirrorfs.errors import ExitCode, MirrorfsError, NoAnswerError, from_process

if TYPE_CHECKING:
    from mirrorfs.daemon.mount_spec import MountSpec

log = logging.getLogger(__name__)

_READY = b"ready"
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def run_foreground(spec: MountSpec) -> None:
    """Serve until the mount is unmounted, or a signal ends it; a service manager that has started
    this process is told. Raises MirrorfsError.
    """
    from mirrorfs.daemon import notify
    from mirrorfs.daemon.main_loop import serve

    notifier = notify.from_environment()
    _set_up_log(spec, foreground=True)
    # The main loop lets them through when it listens: no signal leaves a half mount.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    serve(spec, notifier.ready, notifier)


def run_background(spec: MountSpec) -> str | None:
    """Serve in a child process; returns, when the mount answers, a note for the user or None.

    Raises MirrorfsError with the child's reason and exit code if the mount is refused,
    NoAnswerError if it does not answer within `_START_SECONDS`.
    """
    note = _set_up_log(spec, foreground=False)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):
            stream.flush()
    reading, writing = os.pipe()
    # A signal right after the fork would run the command's handlers in the child, too.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    pid = os.fork()
    if pid == 0:
        _child(spec, writing)
    os.close(writing)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        answer = _read(reading)
        # A mount that answers stays, so no signal may end the command any more.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    except BaseException:
        _stop(pid, spec.mount_point)
        raise
    if answer == _READY:
        return note
    raise _reason(answer)


def _set_up_log(spec: MountSpec, foreground: bool) -> str | None:
    options = spec.options
    return log_setup.set_up(options.log, spec.mount_point, foreground, options.debug)


def _read(pipe: int) -> bytes:
    """All that the child writes, or `_READY` as soon as that has come; NoAnswerError if it takes
    too long.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    end = time.monotonic() + _START_SECONDS
    answer = b""
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        piece = os.read(pipe, 1 << 16)
        answer += piece
        if not piece or answer == _READY:
            return answer
    raise NoAnswerError(
        f"the mount did not answer within {_START_SECONDS:.0f} seconds; "
        "run again with -f to see why"
    )


def _stop(pid: int, mount_point: bytes) -> None:
    """End the child process, and take away the mount that it may have made and left."""
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
    reason = json.loads(answer)
    return from_process(reason["message"], reason["exit_code"])


def _child(spec: MountSpec, pipe: int) -> NoReturn:
    """Serve, in the child process; ends the process, whatever happens."""
    code = ExitCode.FAILED
    is_ready = False

    def ready() -> None:
        nonlocal is_ready
        is_ready = True
        os.write(pipe, _READY)
        os.close(pipe)

    try:
        _leave_terminal()
        os.chdir("/")
        kept = {pipe, spec.backing_fd, spec.state_folder.lock_fd}
        close_inherited({*kept, *log_setup.descriptors()})
        from mirrorfs.daemon.main_loop import serve

        serve(spec, ready)
        code = ExitCode.DONE
    except BaseException as exc:
        if not isinstance(exc, MirrorfsError):
            log.exception("the daemon failed")
        if not is_ready:
            code = exc.exit_code if isinstance(exc, MirrorfsError) else ExitCode.FAILED
            os.write(
                pipe, json.dumps({"message": str(exc) or repr(exc), "exit_code": code}).encode()
            )
    finally:
        logging.shutdown()
        os._exit(code)


def _leave_terminal() -> None:
    """Make the child a session of its own, out of reach of the terminal's Ctrl-C and of its end.

    SIGHUP, which logrotate(8) sends, stays ignored: the log needs none (`log_setup`).
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # also forgets one that has come meanwhile
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
