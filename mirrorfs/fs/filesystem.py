"""What the handlers of one mount share."""

from __future__ import annotations

import errno
import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from mirrorfs.backing import syscalls
from mirrorfs.backing.paths import path_text, show
from mirrorfs.backing.recovery_list import RecoveryList
from mirrorfs.daemon import log_setup
from mirrorfs.fs import reports
from mirrorfs.fs.control import ControlFile, ControlFolder
from mirrorfs.fs.handles import HandleTable
from mirrorfs.fs.open_files import OpenFiles
from mirrorfs.fs.recently_unlinked import RecentlyUnlinked
from mirrorfs.mirror.counters import MAX_FILES, Account, FileKey
from mirrorfs.mirror.plan import Rules
from mirrorfs.options import MountOptions, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.recovery_list import Entry
    from mirrorfs.fs.devices import Device
    from mirrorfs.fs.inodes import Inode, InodeTable
    from mirrorfs.fs.late_recovery import LateRecovery

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_QUIET_SECONDS = 60.0
_FORGET_SECONDS = 0.05
# Refusals that say nothing of the disk: limits, attributes and signals.
_WRITERS_OWN = frozenset({errno.EFBIG, errno.EPERM, errno.EINVAL, errno.EINTR, errno.ETXTBSY})


@dataclass(slots=True)
class State:
    """One mount. Only the account and the mirror files are touched by worker threads.

    `no_seeds` is why files get no seeds, `unsettled` the list for those that do, `leftovers` what a
    crash has left; `own_names` are those in the root that are not what lies below. `rooms_made`
    counts how often seeds were given up for want of space. `distrusted` and `reserved` remember
    that of files that are not open; `describe_extras` gives what config.json says of features that
    depend on the machine, of which `writes_directly` is one.
    """

    backing: bytes
    mount_point: bytes
    options: MountOptions
    inodes: InodeTable
    account: Account = field(default_factory=Account)
    handles: HandleTable = field(default_factory=HandleTable)
    no_seeds: str = ""
    own_names: frozenset[bytes] = frozenset()
    unsettled: RecoveryList | None = None
    leftovers: LateRecovery = field(init=False)
    old_files: RecentlyUnlinked = field(default_factory=RecentlyUnlinked)
    rooms_made: int = 0
    distrusted: set[FileKey] = field(default_factory=set)
    reserved: dict[FileKey, None] = field(default_factory=dict)
    describe_extras: Callable[[], dict[str, object]] = dict
    writes_directly: bool = False
    last_paths: dict[FileKey, bytes] = field(default_factory=dict)
    mounted_at: float = field(default_factory=time.time)
    control: ControlFolder = field(init=False)
    mirrors: OpenFiles = field(init=False)
    _quiet_until: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        account = self.account
        self.mirrors = OpenFiles(self)
        self.own_names = frozenset({self.options.control})
        self.control = ControlFolder(
            self.options.control,
            {
                "stats": ControlFile(0o444, lambda: reports.stats_text(account.snapshot())),
                "stats.json": ControlFile(0o444, self.stats_json),
                "files.json": ControlFile(0o400, self._files_json),
                "metrics": ControlFile(0o444, self._metrics),
                "config.json": ControlFile(0o400, self._config_json),
                "reset": ControlFile(0o200, accept=lambda data: reports.parse_reset(account, data)),
            },
        )

    def rules(self, abilities: Abilities) -> Rules:
        """What is done with zeros and unchanged blocks on a file system with these abilities."""
        block = max(self.options.block_bytes or 0, abilities.unit_bytes)
        return Rules(self.options.zeros == "punch", self.options.unchanged == "skip", block)

    def keep_list(self, folder: bytes, left: Sequence[Entry]) -> None:
        """Let files have seeds, with their list in the state folder `folder`, on which a crash has
        left some.
        """
        self.unsettled = RecoveryList(folder, left)
        parent, name = os.path.split(folder)
        if parent == self.backing:
            self.own_names |= {name}

    def clones_seeds(self, abilities: Abilities) -> bool:
        """Whether a new file may be given a clone of an old one on such a file system."""
        wanted = self.options.basis == "auto" and self.options.unchanged == "skip"
        return wanted and self.unsettled is not None and abilities.clone

    async def make_room(self, device: Device, code: int | None, since: int) -> bool:
        """Free what is only kept as a seed on a device, if an error with the errno `code` may end
        by that.

        Returns whether there was something, or somebody else has done so since `rooms_made` was
        `since`.
        """
        if code not in syscalls.NO_SPACE:
            return False
        held = await self.old_files.give_up_all(device)
        held |= await self.mirrors.give_up_seeds(device)
        if await self.mirrors.settle_all(device) or held:
            # Blocks of an unlinked file are free when the kernel has told us to forget it, too.
            await trio.sleep(_FORGET_SECONDS)
            self.rooms_made += 1
        return self.rooms_made != since

    async def with_room(
        self,
        device: Device,
        function: Callable[..., _T],
        *args: Any,  # noqa: ANN401 - passed on
        brief: bool = False,
    ) -> _T:
        """What `device.workers.run` (or `brief`) does, and once more if it failed for want of space
        and some could be made. `function` has done nothing if it raises.
        """
        since = self.rooms_made
        run = device.workers.brief if brief else device.workers.run
        try:
            return await run(function, *args)
        except OSError as exc:
            if not await self.make_room(device, exc.errno, since):
                raise
        return await run(function, *args)

    def remember_path(self, inode: Inode) -> None:
        """Note where a file that is being written lies, for files.json, also when the kernel has
        forgotten it; no longer than the account remembers its counters.
        """
        self.last_paths.pop(inode.key, None)
        self.last_paths[inode.key] = inode.path()
        if len(self.last_paths) > MAX_FILES:
            del self.last_paths[next(iter(self.last_paths))]

    def remember_reserved(self, key: FileKey) -> None:
        """Note that space was asked for in a file, of the latest ones: a file that is forgotten is
        compared again, and keeps its space.
        """
        self.reserved[key] = None
        if len(self.reserved) > MAX_FILES:
            del self.reserved[next(iter(self.reserved))]

    def note_ignored_preallocation(self, inode: Inode) -> None:
        """Say that space which a client asked for was not reserved."""
        self._warn(inode, "a client asked for space, which preallocate=ignore does not reserve")

    def note_failure(self, inode: Inode, code: int) -> None:
        """Say that data did not reach the file system below; its writer was told, too."""
        if code not in _WRITERS_OWN:
            self._warn(inode, f"could not be written: {os.strerror(code)}")

    def _warn(self, inode: Inode, what: str) -> None:
        """A warning, the same at most once a minute, whatever file it is about."""
        now = time.monotonic()
        if now >= self._quiet_until.get(what, 0.0):
            self._quiet_until[what] = now + _QUIET_SECONDS
            log.warning("%s: %s", show(inode.path()), what)

    def forget(self, node_id: int, lookups: int) -> None:
        """Take lookups away, as the kernel does."""
        if ControlFolder.owns(node_id):
            self.control.forget(node_id, lookups)
            return
        gone = self.inodes.forget(node_id, lookups)
        if gone is not None:
            self.left(gone)

    def left(self, inode: Inode) -> None:
        """The kernel no longer knows `inode`: keep its path for reports, or drop its counters if it
        is no more.
        """
        if inode.nameless:
            self.account.drop(inode.key)
            self.last_paths.pop(inode.key, None)
            self.distrusted.discard(inode.key)
            self.reserved.pop(inode.key, None)
        elif inode.key in self.last_paths:
            self.last_paths[inode.key] = inode.path()

    def status_line(self) -> str:
        """One line for the log."""
        now = self.account.snapshot().since_mount
        return (
            f"{len(self.inodes)} inodes known, {self.inodes.descriptors} descriptors kept, "
            f"{len(self.handles)} open, {self.inodes.devices.busy} calls running; received "
            f"{now['received_bytes']} bytes, written {now['written_bytes']}, unchanged "
            f"{now['unchanged_bytes']}, punched {now['punched_bytes']}, hole "
            f"{now['hole_bytes']}, shared {now['shared_bytes']}, failed {now['failed_bytes']}"
        )

    def _file_system(self) -> dict[str, object]:
        abilities = self.inodes.abilities(self.inodes.root)
        return {
            "type": abilities.file_system,
            "allocation_unit_bytes": abilities.unit_bytes,
            "block_bytes": self.rules(abilities).block_bytes,
            "can_punch": abilities.punch,
            "can_share_blocks": abilities.clone,
            "seek_data_trusted": abilities.seek_proven,
        }

    def stats_json(self) -> bytes:
        """The content of the control file of that name."""
        return reports.stats_json(
            self.account.snapshot(), self.backing, self.mounted_at, self._file_system()
        )

    def _files_json(self) -> bytes:
        def name_of(key: FileKey) -> str:
            # Not by going through all inodes, of which there may be a million.
            inode = self.inodes.by_key(key) if key in self.last_paths else None
            return path_text(
                inode.path() if inode else self.last_paths.get(key, b"inode %d" % key[1])
            )

        return reports.files_json(self.account.files(name_of))

    def _metrics(self) -> bytes:
        gauges = {"known_inodes": len(self.inodes), "open_files": len(self.handles)}
        return reports.metrics(
            self.account.snapshot(), gauges, self.mounted_at, self.mount_point, self.backing
        )

    def _config_json(self) -> bytes:
        options = self.options
        effective: dict[str, object] = {
            "block": self.rules(self.inodes.abilities(self.inodes.root)).block_bytes,
            "allow_other": options.lets_others_in(os.geteuid() == 0),
            "log": log_setup.destination(),
            "state": path_text(self.unsettled.folder) if self.unsettled else "",
        }
        reason = self.no_seeds or (self.unsettled.refusal if self.unsettled else "")
        seeds = {"on": False, "reason": reason} if reason else {"on": True}
        extras = {**self.describe_extras(), "seeds": seeds}
        return reports.config_json(describe(options, effective), self._file_system(), extras)
