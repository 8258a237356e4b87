"""`mirrorfs umount`: unmount, and return when the daemon has ended."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import mounts
from mirrorfs.backing.paths import show
from mirrorfs.cli.output import note
from mirrorfs.daemon import mounted, processes, timed_calls
from mirrorfs.errors import BusyError, ExitCode, MirrorfsError, NoAnswerError

if TYPE_CHECKING:
    import argparse

    from mirrorfs.backing.mounts import Mount

_END_SECONDS = 30
_HELD_SECONDS = 10
_LAZY_SECONDS = 2
_PID_SECONDS = 2
_BUSY_SECONDS = 1
_MAX_NAMED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words that follow `mirrorfs umount`."""
    parser.add_argument("mount_point", metavar="MOUNTPOINT")
    parser.add_argument(
        "-l",
        "--lazy",
        action="store_true",
        help="take it out of the tree now, even if it is in use or hangs; it ends when unused",
    )


def run(arguments: argparse.Namespace) -> int:
    """Unmount; exit code 7 if it is no mirrorfs mount, 11 if files are open, 12 if the daemon does
    not answer or does not end. `--lazy` depends on no answer of the mount.
    """
    from mirrorfs.daemon import places

    mount = mounted.at(arguments.mount_point)
    os.chdir("/")  # else this process itself would hold the mount in `umount .`
    if not arguments.lazy and places.clear_dead(mount):
        note(f"{show(mount.path)}: the daemon was dead; removed what it left")
        return ExitCode.DONE
    pid = _daemon(mount)
    watch = _open_pid(pid)
    _detach(mount, arguments.lazy)
    elsewhere = [other.path for other in mounts.mount_table() if other.device == mount.device]
    if elsewhere:
        note(f"{show(mount.path)}: unmounted; it is still mounted on {show(elsewhere[0])}")
    elif pid is not None and watch is not None:
        _wait(watch, mount, pid, arguments.lazy)
    return ExitCode.DONE


def _daemon(mount: Mount) -> int | None:
    """The process number of the daemon: from /proc, or, where that may not be read, from the
    statistics of the mount; None if neither says.
    """
    pid = processes.daemon_of(mount)
    if pid is not None:
        return pid
    try:
        pid = int(mounted.Statistics(mount).read(_PID_SECONDS)["pid"])
    except (MirrorfsError, LookupError, ValueError, TypeError):
        return None
    # The daemon of another pid namespace (a container) has a number that is another process here.
    return pid if processes.is_mirrorfs(pid) else None


def _open_pid(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _detach(mount: Mount, lazy: bool) -> None:
    """Take the mount out of the tree. BusyError if it stays in use for `_BUSY_SECONDS`: a process
    that only looks through all open files, as fuser(1), or reads a control file, as `mirrorfs top`,
    is over by then.
    """
    from mirrorfs.daemon import places

    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return timed_calls.call(places.detach, mount.path, lazy, seconds=_END_SECONDS)
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise MirrorfsError(
                    f"{show(mount.path)}: cannot be unmounted: {exc.strerror}"
                ) from None
        if time.monotonic() >= end:
            found = processes.holders(mount)
            found += [f"the mount on {show(path)}" for path in mounts.inside(mount)]
            raise BusyError(
                f"{show(mount.path)}: in use by {_named(found)}; end that, or pass --lazy"
            )
        time.sleep(0.05)


def _named(found: list[str]) -> str:
    if not found:
        return "a process that cannot be seen from here"
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return ", ".join(found[:_MAX_NAMED]) + more


def _wait(watch: int, mount: Mount, pid: int, lazy: bool) -> None:
    """Wait until the daemon has ended; NoAnswerError after `_HELD_SECONDS` if another process holds
    the mount, after `_END_SECONDS` in any case. With `lazy`, only say after `_LAZY_SECONDS` what
    the daemon waits for.
    """
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    if lazy:
        if not poll.poll(_LAZY_SECONDS * 1000):
            note(_why_not_yet(mount, pid))
        return
    for seconds in (_HELD_SECONDS, _END_SECONDS - _HELD_SECONDS):
        if poll.poll(seconds * 1000):
            return
        held = _held(mount)
        if held:
            raise NoAnswerError(
                f"{show(mount.path)}: unmounted here, but {held}; its daemon, process {pid}, ends "
                "when that is over"
            )
    raise NoAnswerError(
        f"{show(mount.path)}: unmounted, but its daemon, process {pid}, has not ended, and no "
        "process is seen that holds it; a disk below may not answer"
    )


def _why_not_yet(mount: Mount, pid: int) -> str:
    if processes.is_stopped(pid):
        return f"process {pid} is stopped; it ends after 'kill -CONT {pid}'"
    held = _held(mount) or "files are still open, or the daemon hangs"
    return f"{held}; process {pid} ends when that is over"


def _held(mount: Mount) -> str:
    """Which processes keep alive what was unmounted here; empty if none is seen."""
    found = processes.other_namespaces(mount.device)
    if found:
        return f"still mounted in another mount namespace, that of {_named(found)}"
    with contextlib.suppress(MirrorfsError, OSError):
        device = mount.device.encode()
        found = timed_calls.call(processes.detached_users, device, seconds=_LAZY_SECONDS)
    return f"still used by {_named(found)}" if found else ""
