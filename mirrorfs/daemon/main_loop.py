"""The main loop of one mount, from FUSE's init to the last answer.

TERM and INT: the mount leaves the tree at once, so no new client comes in; requests that have
arrived are answered; files that are still open then are cut off. A second signal does not wait.
USR1 logs one line, USR2 the stacks of all threads (`log_signals`).

What a crash leaves: plain files with all that was acknowledged, and a dead mount that the next
`mount` replaces.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from typing import TYPE_CHECKING

import trio

from mirrorfs import __version__
from mirrorfs.backing import mounts, syscalls
from mirrorfs.backing.paths import printable, show
from mirrorfs.daemon import log_setup, log_signals, places
from mirrorfs.daemon.background import Background
from mirrorfs.daemon.notify import Notifier
from mirrorfs.daemon.readahead import Readahead
from mirrorfs.daemon.session_hook import SessionHook
from mirrorfs.fs.setup import Setup
from mirrorfs.fuse.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.daemon.mount_spec import MountSpec

log = logging.getLogger(__name__)

_QUIET_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_MIN_DESCRIPTORS = 16


def serve(spec: MountSpec, ready: Callable[[], None], notifier: Notifier | None = None) -> None:
    """Mount and serve until unmounted; `ready` is called when requests are answered, and `notifier`
    told what follows.

    Raises FuseError if the mount is refused.
    """
    os.umask(0)
    log_signals.block()
    _raise_limits()
    syscalls.keep_request_buffers()
    trio.run(_serve, spec, ready, notifier or Notifier())


def _raise_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptor_limit() -> int:
    """How many descriptors may be kept for files that are merely known."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_MIN_DESCRIPTORS, soft // 4)


async def _serve(spec: MountSpec, ready: Callable[[], None], notifier: Notifier) -> None:
    readahead = Readahead(spec.mount_point)
    connection = Connection(_setup(spec), lambda: {"readahead": readahead.describe()})
    mount = Mount(connection, spec.mount_point, notifier)
    log_signals.start(connection.fs.status_line)
    hook = _start_hook(spec, connection)
    if connection.fs.recorder is not None:
        connection.fs.recorder.listeners.append(notifier.session)
    connection.fs.start()
    connection.mount(spec.mount_point, _fuse_options(spec))
    mount.note_device()
    connection.fs.metrics.start(mount.owns_place)
    _log_mounted(spec)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(mount.watch_signals)
            nursery.start_soon(_announce, connection, spec.mount_point, readahead, ready)
            nursery.start_soon(Background(connection.fs).run)
            nursery.start_soon(notifier.watch, spec.mount_point)
            await connection.serve()
            nursery.cancel_scope.cancel()
    finally:
        notifier.stopping()
        with notifier:
            connection.close(unmount=mount.is_mounted())
            connection.fs.close_files()
            await trio.to_thread.run_sync(connection.fs.end_threads)
            if hook is not None:
                await trio.to_thread.run_sync(hook.close)
        log.info("unmounted: %s", connection.fs.status_line())


def _start_hook(spec: MountSpec, connection: Connection) -> SessionHook | None:
    recorder = connection.fs.recorder
    if spec.hook is None or recorder is None:
        return None
    hook = SessionHook(spec.hook, spec.mount_point, spec.backing)
    recorder.listeners.append(hook.put)
    hook.start()
    return hook


def _setup(spec: MountSpec) -> Setup:
    return Setup(
        spec.backing,
        spec.backing_fd,
        spec.mount_point,
        spec.options,
        spec.abilities,
        spec.state_folder.path,
        spec.state_folder.no_seeds,
        spec.state_folder.catalog_folder,
        spec.state_folder.left,
        _descriptor_limit(),
        log_setup.destination(),
        spec.metrics_folder,
    )


def _log_mounted(spec: MountSpec) -> None:
    """What is mounted where and how, and what was done on the way."""
    given = printable(",".join(spec.options.words))
    how = f"options: {given}" if given else "no options"
    log.info(
        "mounted %s on %s (mirrorfs %s, %s, %s)",
        show(spec.backing), show(spec.mount_point), __version__, spec.abilities.file_system, how,
    )  # fmt: skip
    for note in spec.notes:
        log.info("%s", note)
    for warning in spec.state_folder.warnings:
        log.warning("%s", warning)


def _fuse_options(spec: MountSpec) -> set[str]:
    options = spec.options
    words = {
        "default_permissions",
        "subtype=mirrorfs",
        f"fsname={_fs_name(spec.backing)}",
        *options.fuse_words,
    }
    if options.lets_others_in(os.geteuid() == 0):
        words.add("allow_other")
    if options.noatime:
        words.add("noatime")  # for the mount table; opening files below keeps to it
    if options.ro:
        words.add("ro")
    return words


def _fs_name(backing: bytes) -> str:
    """The backing path as the source in the mount table; libfuse takes ASCII, and reads a comma as
    a separator.
    """
    text = backing.decode("ascii", "backslashreplace")
    return text.replace("\\", "\\\\").replace(",", "\\,")


async def _announce(
    connection: Connection, mount_point: bytes, readahead: Readahead, ready: Callable[[], None]
) -> None:
    """Wait until the mount answers, which it does when FUSE's first exchange is over."""
    await trio.to_thread.run_sync(os.statvfs, mount_point, abandon_on_cancel=True)
    connection.features.log_missing()
    readahead.set()
    ready()


class Mount:
    """The place of a connection in the tree, and its end."""

    def __init__(self, connection: Connection, mount_point: bytes, notifier: Notifier) -> None:
        self._connection = connection
        self._notifier = notifier
        self._mount_point = mount_point

    def note_device(self) -> None:
        """Note the device of the mount that was just made."""
        mount = mounts.mounted_at(self._mount_point)
        if mount is not None:
            self._connection.fs.devices.own_dev = mount.dev

    def is_mounted(self) -> bool:
        """Whether what the mount point shows is this mount. Where another namespace keeps a copy of
        it, it lives on after it was unmounted here, and another may have come in its place.
        """
        mount = mounts.mounted_at(self._mount_point)
        return mount is not None and mount.dev == self._connection.fs.devices.own_dev

    def owns_place(self) -> bool:
        """Whether no other mount has come in its place, as one can after `umount --lazy`."""
        mount = mounts.mounted_at(self._mount_point)
        if mount is None or mount.fs_type != mounts.MIRRORFS_TYPE:
            return True
        return mount.dev == self._connection.fs.devices.own_dev

    async def watch_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """End the connection when a signal says so."""
        ending = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored in the background, nohup(1)
            ending.append(signal.SIGHUP)
        # The receiver gives back what it has found when it ends, and no handler may then come
        # between closing what is open. Blocked meanwhile, so that no signal is lost; in the
        # foreground they have been blocked from the start (`launch`).
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)
        for one in ending:
            signal.signal(one, signal.SIG_IGN)
        with trio.open_signal_receiver(*ending) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
            task_status.started()
            async for number in signals:
                log.info("got %s, unmounting", signal.Signals(number).name)
                self._notifier.stopping()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stop, nursery.cancel_scope)
                    async for _ in signals:
                        break
                    nursery.cancel_scope.cancel()
                for line in self._connection.fs.devices.cut_off():
                    log.warning("%s", line)
                self._connection.terminate()
                return

    async def _stop(self, done: trio.CancelScope) -> None:
        """Take the mount out of the tree, then wait until what has arrived is answered."""
        try:
            await trio.to_thread.run_sync(self._detach)
        except Exception:
            log.exception("the mount could not be detached")
        fs = self._connection.fs
        with trio.move_on_after(_GRACE_SECONDS):
            quiet = 0
            while quiet < 2:
                before = fs.account.snapshot().since_mount["write_requests"]
                await trio.sleep(_QUIET_SECONDS)
                now = fs.account.snapshot().since_mount["write_requests"]
                quiet = quiet + 1 if not fs.devices.busy and before == now else 0
        if len(fs.handles):
            log.warning("files still open: %d; their next use will fail", len(fs.handles))
        done.cancel()

    def _detach(self) -> None:
        if self.is_mounted():
            with contextlib.suppress(FileNotFoundError):
                places.detach(self._mount_point, lazy=True)
