"""The handler that makes regular files: create."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing import tree
from mirrorfs.backing.reader import NO_READER, open_reader
from mirrorfs.fs.control import ControlFolder
from mirrorfs.fs.entry import refuse
from mirrorfs.fs.pinned_inodes import Pinned
from mirrorfs.mirror import seed_rules, seed_search
from mirrorfs.mirror.open_file import OpenFile

if TYPE_CHECKING:
    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.reader import Reader
    from mirrorfs.backing.statx import Status
    from mirrorfs.fs.entries import Entries
    from mirrorfs.fs.entry import Entry, Opened
    from mirrorfs.fs.files import Files
    from mirrorfs.fs.inode import Inode
    from mirrorfs.fs.inodes import InodeTable
    from mirrorfs.fs.names import Names
    from mirrorfs.fs.policy import Policy
    from mirrorfs.fs.recently_unlinked import RecentlyUnlinked
    from mirrorfs.fs.space import Space
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.plan import Rules
    from mirrorfs.options import MountOptions


class Creation:
    """The handler; raises OSError."""

    def __init__(
        self,
        inodes: InodeTable,
        entries: Entries,
        names: Names,
        files: Files,
        unlinked: RecentlyUnlinked,
        space: Space,
        control: ControlFolder,
        account: Account,
        policy: Policy,
        options: MountOptions,
    ) -> None:
        self._inodes = inodes
        self._entries = entries
        self._names = names
        self._files = files
        self._unlinked = unlinked
        self._space = space
        self._control = control
        self._account = account
        self._policy = policy
        self._options = options

    async def create(
        self, parent_id: int, name: bytes, mode: int, flags: int, caller: Credentials
    ) -> tuple[Entry, Opened]:
        """Make a regular file, and open it with `flags` of open(2)."""
        if ControlFolder.owns(parent_id):
            entry = self._control.make(parent_id, name, mode | stat.S_IFREG, caller)
            return entry, await self._files.open(entry.node_id, flags, caller)
        self._control.check_free(parent_id, name)
        async with Pinned(self._inodes, parent_id) as (parent,):
            try:
                return await self._create(parent, name, mode, flags, caller)
            except FileExistsError:
                # It was made beside the mount since the kernel looked.
                if flags & os.O_EXCL:
                    raise
            fd, status = await self._names.find(parent, name)
            if not stat.S_ISREG(status.mode):
                os.close(fd)
                raise refuse(errno.ESTALE)
            entry = self._entries.adopt(parent, name, fd, status)
        try:
            return entry, await self._files.open(entry.node_id, flags, caller)
        except BaseException:
            self._names.forget_one(entry.node_id, 1)
            raise

    async def _create(
        self, parent: Inode, name: bytes, mode: int, flags: int, caller: Credentials
    ) -> tuple[Entry, Opened]:
        """Make a file that is not there, with the seed that it may have."""
        abilities = self._inodes.abilities(parent)
        keeps_atime = self._options.keeps_atime(flags)
        how = (flags, abilities, self._policy.rules(abilities), self._account, keeps_atime)
        made = await self._space.retry_after_reclaim(
            parent.device, _create, parent.fd, name, mode, caller, *how
        )
        replaced = seed_rules.replaced_names(name)
        if made.open_file is not None and self._policy.clones_seeds(abilities):
            old = self._unlinked.take(parent, name)
            if old is not None or replaced:
                made.open_file.seed_fd = await parent.device.threads.run(
                    seed_search.find, parent.fd, old, replaced, caller
                )
        entry = self._entries.adopt(parent, name, made.fd, made.status)
        inode = self._inodes.get(entry.node_id)
        is_copy = bool(replaced)
        opened = await self._files.open_new(inode, flags, made.reader, made.open_file, is_copy)
        return entry, opened


@dataclass(frozen=True, slots=True)
class _Created:
    """A new file: its O_PATH descriptor and status, and what a client's handle on it needs."""

    fd: int
    status: Status
    reader: Reader
    open_file: OpenFile | None


def _create(
    parent_fd: int,
    name: bytes,
    mode: int,
    caller: Credentials,
    flags: int,
    abilities: Abilities,
    rules: Rules,
    account: Account,
    keeps_atime: bool,
) -> _Created:
    """Make a regular file and open it as `flags` say, whatever its mode lets its owner do."""
    access = flags & os.O_ACCMODE
    with contextlib.ExitStack() as opened:
        reader = NO_READER

        def open_it(fd: int) -> None:
            nonlocal reader
            if access != os.O_WRONLY:
                reader = open_reader(fd, keeps_atime, abilities)
                opened.callback(os.close, reader.fd)

        fd, file_fd, status = tree.create_file(parent_fd, name, mode, caller, open_it)
        opened.pop_all()
    if access == os.O_RDONLY:
        os.close(file_fd)
        return _Created(fd, status, reader, None)
    proven = abilities.tells_holes(file_fd)
    key = status.key
    file = OpenFile(file_fd, key, abilities, rules, account, readable=True, seek_proven=proven)
    file.is_new = True
    return _Created(fd, status, reader, file)
