"""The main loop of one mount, from FUSE's init to the last answer.

TERM and INT: the mount leaves the tree at once, so nobody new comes in; requests that have arrived
are answered; files that are still open then are cut off. A second signal does not wait. USR1 logs
one line, USR2 the stacks of all threads, from a thread of its own that answers even while the main
loop is stuck.

What a crash leaves: plain files with all that was acknowledged, and a dead mount that the next
`mount` replaces.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

import pyfuse3
import trio

from mirrorfs import __version__
from mirrorfs.backing import mounts, syscalls
from mirrorfs.backing.paths import printable, show
from mirrorfs.backing.statx import statx
from mirrorfs.daemon import places
from mirrorfs.daemon.background import Background
from mirrorfs.errors import FuseError
from mirrorfs.fs.devices import Devices
from mirrorfs.fs.filesystem import State
from mirrorfs.fs.inodes import InodeTable
from mirrorfs.fs.late_recovery import LateRecovery
from mirrorfs.fs.sparse import SparseOperations
from mirrorfs.fuse.at_once import AtOnce
from mirrorfs.fuse.dispatch import Dispatcher
from mirrorfs.fuse.optional_features import OptionalFeatures
from mirrorfs.mirror.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.daemon.mount_spec import MountSpec

log = logging.getLogger(__name__)

# Requests that can be under way, waiting for a device or for a thread. A small one costs 9 KiB
# while it waits, a write of 1 MiB twice its size: 5 MiB, 1 GiB at the very worst. That is enough
# for ten stalled devices with all their threads, and twice what the kernel reads ahead (`extras`).
_TASKS = 512
_MIN_DESCRIPTORS = 16
_QUIET_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_LOG_SIGNALS = {signal.SIGUSR1, signal.SIGUSR2}


def serve(job: MountSpec, ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted; `ready` is called when requests are answered.

    Raises FuseError if the mount is refused.
    """
    os.umask(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _LOG_SIGNALS)
    _raise_limits()
    syscalls.keep_request_buffers()
    trio.run(_serve, job, ready)


def _raise_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptor_limit() -> int:
    """How many descriptors may be kept for files that are merely known."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_MIN_DESCRIPTORS, soft // 4)


async def _serve(job: MountSpec, ready: Callable[[], None]) -> None:
    root = statx(job.backing_fd)
    devices = Devices(job.backing_fd, root, job.abilities, writable=not job.options.ro)
    limit = _descriptor_limit()
    inodes = InodeTable(job.backing_fd, root, devices, limit)
    state = State(job.backing, job.mount_point, job.options, inodes)
    state.no_seeds = job.state_folder.no_seeds
    if job.state_folder.path is not None:
        state.keep_list(job.state_folder.path, job.state_folder.left)
    recovery = Recovery(job.backing_fd, state.unsettled, is_writable=not job.options.ro)
    state.leftovers = LateRecovery(recovery, state.unsettled, job.state_folder.left)
    _start_log_thread(state)
    operations = SparseOperations(state)
    dispatcher = Dispatcher(operations)
    extras = OptionalFeatures(dispatcher, AtOnce(operations), job.options)
    state.describe_extras = extras.describe
    try:
        pyfuse3.init(operations, os.fsdecode(job.mount_point), _fuse_options(job))
    except RuntimeError as exc:
        raise FuseError(f"{show(job.mount_point)}: FUSE refused the mount: {exc}") from None
    mount = mounts.mounted_at(job.mount_point)
    if mount is not None:
        devices.own_dev = mount.dev
    log.info("mounted %s", _description(job))
    for note in job.notes:
        log.info("%s", note)
    for warning in job.state_folder.warnings:
        log.warning("%s", warning)
    extras.log()
    try:
        async with trio.open_nursery() as nursery:
            dispatcher.nursery = nursery
            await nursery.start(_watch_signals, state)
            nursery.start_soon(_announce, state, extras, ready)
            nursery.start_soon(Background(state).run)
            try:
                await pyfuse3.main(max_tasks=_TASKS)
            except* ConnectionAbortedError:  # without the extension, which then ends the loop
                log.debug("the mount ended while a request was being handed over")
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=_is_mounted(state))
        await _close_all(state)
        log.info("unmounted: %s", state.status_line())


def _description(job: MountSpec) -> str:
    """What is mounted where and how, for the log."""
    given = printable(",".join(job.options.words))
    how = f"options: {given}" if given else "no options"
    return (
        f"{show(job.backing)} on {show(job.mount_point)} "
        f"(mirrorfs {__version__}, {job.abilities.file_system}, {how})"
    )


def _fuse_options(job: MountSpec) -> set[str]:
    options = job.options
    words = {
        "default_permissions",
        "subtype=mirrorfs",
        f"fsname={_fs_name(job.backing)}",
        *options.fuse_words,
    }
    if options.lets_others_in(os.geteuid() == 0):
        words.add("allow_other")
    if options.noatime:
        words.add("noatime")  # for the mount table; what opens below keeps to it (`steps`)
    if options.ro:
        words.add("ro")
    return words


def _fs_name(backing: bytes) -> str:
    """The backing path as the source in the mount table; libfuse takes ASCII, and reads a comma as
    a separator.
    """
    text = backing.decode("ascii", "backslashreplace")
    return text.replace("\\", "\\\\").replace(",", "\\,")


async def _announce(state: State, extras: OptionalFeatures, ready: Callable[[], None]) -> None:
    """Wait until the mount answers, which it does when FUSE's first exchange is over."""
    await trio.to_thread.run_sync(os.statvfs, state.mount_point, abandon_on_cancel=True)
    state.writes_directly = extras.writes_directly
    extras.raise_readahead(state.mount_point)
    ready()


async def _watch_signals(
    state: State, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    ending = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as in the background, or by nohup(1)
        ending.append(signal.SIGHUP)
    # The receiver gives back what it has found when it ends, and no handler may then come between
    # closing what is open. Blocked meanwhile, since a signal that comes right now must not be lost;
    # in the foreground they have been blocked from the start (`launch`).
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    for one in ending:
        signal.signal(one, signal.SIG_IGN)
    with trio.open_signal_receiver(*ending) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        task_status.started()
        async for number in signals:
            log.info("got %s, unmounting", signal.Signals(number).name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop, state, nursery.cancel_scope)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()
            for line in state.inodes.devices.cut_off():
                log.warning("%s", line)
            pyfuse3.terminate()
            return


async def _stop(state: State, done: trio.CancelScope) -> None:
    """Take the mount out of the tree, then wait until what has arrived is answered."""
    try:
        await trio.to_thread.run_sync(_detach, state)
    except Exception:
        log.exception("the mount could not be detached")
    with trio.move_on_after(_GRACE_SECONDS):
        quiet = 0
        while quiet < 2:
            before = state.account.snapshot().since_mount["write_requests"]
            await trio.sleep(_QUIET_SECONDS)
            idle = (
                not state.inodes.devices.busy
                and before == state.account.snapshot().since_mount["write_requests"]
            )
            quiet = quiet + 1 if idle else 0
    if len(state.handles):
        log.warning("files still open: %d; their next use will fail", len(state.handles))
    done.cancel()


def _detach(state: State) -> None:
    if _is_mounted(state):
        with contextlib.suppress(FileNotFoundError):
            places.detach(state.mount_point, lazy=True)


def _is_mounted(state: State) -> bool:
    """Whether what the mount point shows is this mount. Where another namespace keeps a copy of it,
    it lives on after it was unmounted here, and another may have come in its place.
    """
    mount = mounts.mounted_at(state.mount_point)
    return mount is not None and mount.dev == state.inodes.devices.own_dev


async def _close_all(state: State) -> None:
    """Close what clients left open, then the tables, then the threads.

    Threads that were left behind may still use any descriptor by its number, so then the end of the
    process closes them.
    """
    devices = state.inodes.devices
    if not devices.is_cut_off:
        for handle in state.handles.files():
            if handle.fd >= 0:
                handle.inode.device.workers.close_fd(handle.fd)
        state.old_files.close()
        state.mirrors.close()
        state.inodes.close()
    await trio.to_thread.run_sync(devices.close)
    if state.unsettled is not None:
        state.unsettled.progress_table.close()


def _start_log_thread(state: State) -> None:
    def answer() -> None:
        # The others are the main thread's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            number = signal.sigwait(_LOG_SIGNALS)
            try:
                if number == signal.SIGUSR1:
                    log.info("%s", state.status_line())
                else:
                    _log_stacks()
            except Exception:  # the tables are the main loop's, which goes on changing them
                log.exception("the status could not be told; ask again")

    threading.Thread(target=answer, name="signals", daemon=True).start()


def _log_stacks() -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        log.info("stack of %s:\n%s", names.get(ident, ident), stack)
