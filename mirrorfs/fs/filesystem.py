"""The file system of one mount: its parts, each handed what it needs, made whole in one place."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import digest_file
from mirrorfs.backing.recovery_list import RecoveryList
from mirrorfs.backing.statx import statx
from mirrorfs.catalog.catalog import Catalog
from mirrorfs.fs.attributes import Attributes
from mirrorfs.fs.content import Content
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.control_files import ControlFiles
from mirrorfs.fs.creation import Creation
from mirrorfs.fs.devices import Devices
from mirrorfs.fs.digests import Digests
from mirrorfs.fs.entries import Entries
from mirrorfs.fs.files import Files
from mirrorfs.fs.folders import Folders
from mirrorfs.fs.handles import HandleTable
from mirrorfs.fs.inodes import InodeTable
from mirrorfs.fs.late_recovery import LateRecovery
from mirrorfs.fs.metrics import Metrics
from mirrorfs.fs.names import Names
from mirrorfs.fs.open_files import OpenFiles
from mirrorfs.fs.policy import Policy
from mirrorfs.fs.privileges import Privileges
from mirrorfs.fs.quiet_log import QuietLog
from mirrorfs.fs.recently_unlinked import RecentlyUnlinked
from mirrorfs.fs.recorder import Recorder
from mirrorfs.fs.sessions import Sessions
from mirrorfs.fs.space import Space
from mirrorfs.fs.sparse import Sparse
from mirrorfs.fs.threads import Threads
from mirrorfs.fs.truncation import Truncation
from mirrorfs.fs.turn import Turn
from mirrorfs.fs.written_files import WrittenFiles
from mirrorfs.fs.xattrs import Xattrs
from mirrorfs.mirror.counters import Account
from mirrorfs.mirror.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.kernel import Kernel
    from mirrorfs.fs.setup import Setup
    from mirrorfs.mirror.counters import FileKey

# Threads for the texts of control files that take long, where no receiver makes them.
_TEXTS = 1


class Filesystem:
    """The handlers (`names`, `folders`, `attributes`, `files`, `creation`, `content`, `xattrs`,
    `sparse`), and what the daemon looks after. To be made in the main loop's thread.
    """

    def __init__(self, setup: Setup, kernel: Kernel) -> None:
        options = setup.options
        self._catalog_folder, self._mount_point = setup.catalog_folder, setup.mount_point
        root = statx(setup.backing_fd)
        self.account = account = Account()
        self.handles = handles = HandleTable()
        self.turn = turn = Turn()
        self.devices = Devices(setup.backing_fd, root, setup.abilities, turn, not options.ro)
        self.inodes = inodes = InodeTable(setup.backing_fd, root, self.devices, setup.descriptors)
        self._recovery_list = _recovery_list(setup)
        recovery = Recovery(setup.backing_fd, self._recovery_list, is_writable=not options.ro)
        self.late_recovery = late = LateRecovery(recovery, self._recovery_list, setup.left, kernel)
        policy = Policy(options, keeps_list=self._recovery_list is not None)
        self._written = written = WrittenFiles(account)
        log = QuietLog()
        self.recorder = recorder = _recorder(setup, account)
        noted = _not_noted if recorder is None else recorder.known
        self.digests = digests = _digests(setup, root, self._note_unsynced, noted)
        self.sessions = sessions = Sessions(
            handles, recorder, digests, written, options.session_quiet
        )
        self.unlinked = unlinked = RecentlyUnlinked()
        self.open_files = open_files = OpenFiles(
            inodes, handles, account, policy, self._recovery_list, late, written, sessions, log
        )
        space = Space(unlinked, open_files)
        self.metrics = metrics = Metrics(setup, account, inodes, handles, recorder)
        texts = ControlFiles(
            setup, account, inodes, written, policy, self._recovery_list, kernel, recorder, metrics
        )
        control = ControlFolder(options.control, texts.files(), _name_in_root(setup))
        entries = Entries(inodes, open_files, options.attr_timeout)
        privileges = Privileges(entries, kernel)
        truncation = Truncation(handles, open_files, entries, privileges, space, sessions)
        self.names = names = Names(
            inodes, entries, open_files, unlinked, late, space, control, written, sessions, policy
        )
        self.folders = Folders(inodes, handles, entries, late, control, options)
        self.attributes = Attributes(
            inodes, entries, open_files, unlinked, late, truncation, privileges, control, sessions
        )
        self.files = files = Files(
            inodes,
            handles,
            open_files,
            late,
            truncation,
            privileges,
            control,
            sessions,
            options,
            kernel,
        )
        self.creation = Creation(
            inodes, entries, names, files, unlinked, space, control, account, policy, options
        )
        self._texts = Threads(_TEXTS, turn)
        self.content = Content(
            handles,
            open_files,
            privileges,
            space,
            control,
            account,
            sessions,
            log,
            kernel,
            self._texts,
        )
        self.xattrs = Xattrs(inodes, open_files, space, account, sessions, texts.stats_json)
        self.sparse = Sparse(
            handles,
            open_files,
            privileges,
            space,
            sessions,
            log,
            kernel,
            options.preallocate == "honour",
        )

    def status_line(self) -> str:
        """One line for the log."""
        now = self.account.snapshot().since_mount
        return (
            f"{len(self.inodes)} inodes known, {self.inodes.descriptors} descriptors kept, "
            f"{len(self.handles)} open, {self.devices.busy} calls running; received "
            f"{now['received_bytes']} bytes, written {now['written_bytes']}, unchanged "
            f"{now['unchanged_bytes']}, punched {now['punched_bytes']}, hole "
            f"{now['hole_bytes']}, shared {now['shared_bytes']}, failed {now['failed_bytes']}"
        )

    def start(self) -> None:
        """Begin to remember; before the mount may hide the state folder."""
        if self.digests is not None:
            self.digests.start()
        if self.recorder is not None:
            folder = self._catalog_folder or b""
            self.recorder.start((folder + b"/").startswith(self._mount_point + b"/"))

    def _note_unsynced(self, key: FileKey, error: OSError) -> None:
        """Note in another thread that a file could not be made durable when its session was over:
        who writes it next must not believe what reading it shows.
        """
        self.turn.take(is_receiver=False)
        try:
            self._written.note_failure(key)
            for handle in self.handles.files():
                if handle.inode.key == key and handle.open_file is not None:
                    handle.open_file.writeback.note_failure(error.errno or errno.EIO)
        finally:
            self.turn.give()

    def close_files(self) -> None:
        """Have threads close what clients left open, and the tables. Threads that were left behind
        may still use any descriptor by its number: then the end of the process closes them.
        """
        if not self.devices.is_cut_off:
            for handle in self.handles.files():
                if handle.fd >= 0:
                    handle.inode.device.close_fd(handle.fd)
            self.unlinked.close()
            self.open_files.close()
            self.inodes.close()

    def end_threads(self) -> None:
        """Wait for the threads to end, after `close_files`; may take as long as the disk."""
        self.devices.close()
        self._texts.close()
        self.sessions.end_all()
        if self.digests is not None:
            self.digests.close()
        if self.recorder is not None:
            self.recorder.close()
        self.metrics.close()
        if self._recovery_list is not None:
            self._recovery_list.progress_table.close()


def _recorder(setup: Setup, account: Account) -> Recorder | None:
    if setup.options.ro or not setup.options.history_days:
        return None
    catalog = Catalog(setup.catalog_folder)
    return Recorder(catalog, setup.backing_fd, account, setup.options.history_days)


def _digests(
    setup: Setup,
    root: Status,
    unsynced: Callable[[FileKey, OSError], None],
    noted: Callable[[bytes, int | None], object],
) -> Digests | None:
    place, is_kept = setup.catalog_folder, setup.options.digests == "on"
    if setup.options.ro or place is None:
        return None
    if not is_kept and not os.path.isdir(os.path.join(place, digest_file.FOLDER)):
        return None
    return Digests(
        place,
        setup.backing_fd,
        root.dev,
        setup.abilities,
        setup.descriptors // 2,
        is_kept,
        unsynced,
        noted,
    )


def _not_noted(_path: bytes, _chunks: int | None) -> None:
    """For a mount without history."""


def _recovery_list(setup: Setup) -> RecoveryList | None:
    return None if setup.state_folder is None else RecoveryList(setup.state_folder, setup.left)


def _name_in_root(setup: Setup) -> bytes | None:
    """The name of the state folder in the backing folder; None if it is elsewhere."""
    if setup.state_folder is None:
        return None
    parent, name = os.path.split(setup.state_folder)
    return name if parent == setup.backing else None
