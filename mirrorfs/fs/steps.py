"""What handlers hand to a worker thread: short sequences of calls below that may block together.

Nothing here touches the inode or handle tables, which belong to the main loop's thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import atime, credentials, recovery_attribute, syscalls, tree
from mirrorfs.backing.statx import identify, statx
from mirrorfs.mirror import seed_search
from mirrorfs.mirror.open_file import OpenFile

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyfuse3

    from mirrorfs.backing.credentials import Credentials
    from mirrorfs.backing.probe import Abilities
    from mirrorfs.backing.statx import Status
    from mirrorfs.fuse.eager import AnyFields
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.plan import Rules
    from mirrorfs.mirror.seed_search import OldFile


_SETID = stat.S_ISUID | stat.S_ISGID


def look_up_cached(parent_fd: int, name: bytes) -> tuple[int, Status]:
    """An O_PATH descriptor of a name that the kernel has in its cache, and its status, without
    waiting; else an OSError.
    """
    fd = syscalls.open_cached(parent_fd, name, os.O_PATH | os.O_NOFOLLOW)
    try:
        return fd, identify(fd, ask=False)
    except OSError:
        os.close(fd)
        raise


def look_up(parent_fd: int, name: bytes, asks: int) -> tuple[int, Status]:
    """An O_PATH descriptor of `name` and its status, see `status_of`."""
    fd = tree.open_path(parent_fd, name)
    try:
        return fd, status_of(fd, b"", asks)
    except OSError:
        os.close(fd)
        raise


def status_of(fd: int, name: bytes, asks: int) -> Status:
    """The status of `name` in the folder `fd`, or of `fd` itself.

    Only the device `asks` is asked itself. What lies on another, behind a mount point, is described
    as the kernel knows it: that device may not answer, and has threads of its own for that.
    """
    if asks < 0:
        return identify(fd, name, ask=False)
    status = statx(fd, name, ask=False)
    return statx(fd, name) if status.dev == asks else status


def top(status: Status) -> Status:
    """`status` of what a mount point leads to, with the identity that it has for us: that of the
    mount. Its true one may not be had without waiting.
    """
    return status._replace(ino=-1 - status.mount_id, btime_ns=-1, generation=0)


def open_name(parent_fd: int, name: bytes, asks: int, key: tuple[int, int, int]) -> int:
    """An O_PATH descriptor of `name`, if that is the inode `key`; else ESTALE."""
    fd, status = look_up(parent_fd, name, asks)
    return _same(fd, status, key)


def open_handle(root_fd: int, handle: bytes, key: tuple[int, int, int]) -> int:
    """The same by a file handle; -1 if that is not allowed."""
    try:
        fd = syscalls.open_by_handle(root_fd, handle)
    except PermissionError:
        return -1
    return _same(fd, statx(fd), key)


def _same(fd: int, status: Status, key: tuple[int, int, int]) -> int:
    if key not in {status.key, top(status).key}:
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return fd


def make(function: Callable[..., int], *args: object) -> tuple[int, Status]:
    """Make an object by a function of `backing.tree`; its O_PATH descriptor and status."""
    fd = function(*args)
    try:
        return fd, identify(fd)
    except OSError:
        os.close(fd)
        raise


class Reader(NamedTuple):
    """A descriptor for a client's reads, -1 for none, the flags of its mount (`atime`): of one by
    which no time of access moves, ST_NOATIME; and whether SEEK_DATA is right for the file
    (`backing.seek_answers`).
    """

    fd: int
    mount_flags: int
    seek_proven: bool


NO_READER = Reader(-1, 0, seek_proven=False)


@dataclass(frozen=True, slots=True)
class Created:
    """A new file: its O_PATH descriptor and status, and what a client's handle on it needs."""

    fd: int
    status: Status
    reader: Reader
    mirror: OpenFile | None


def create(
    parent_fd: int,
    name: bytes,
    mode: int,
    caller: Credentials,
    flags: int,
    abilities: Abilities,
    rules: Rules,
    account: Account,
    keeps_atime: bool,
) -> Created:
    """Make a regular file and open it as `flags` say, whatever its mode lets its owner do."""
    access = flags & os.O_ACCMODE
    with contextlib.ExitStack() as opened:
        reader = NO_READER

        def open_it(fd: int) -> None:
            nonlocal reader
            if access != os.O_WRONLY:
                reader = open_reader(fd, keeps_atime, abilities)
                opened.callback(os.close, reader.fd)

        fd, file_fd = tree.create_file(parent_fd, name, mode, caller, open_it)
        opened.callback(os.close, fd)
        opened.callback(os.close, file_fd)
        status = identify(fd)
        opened.pop_all()
    if access == os.O_RDONLY:
        os.close(file_fd)
        return Created(fd, status, reader, None)
    proven = abilities.tells_holes(file_fd)
    mirror = OpenFile(
        file_fd, status.key, abilities, rules, account, readable=True, seek_proven=proven
    )
    return Created(fd, status, reader, mirror)


def link(fd: int, parent_fd: int, name: bytes) -> Status:
    tree.link(fd, parent_fd, name)
    return statx(fd)


def remove(
    parent_fd: int, name: bytes, folder: bool, asks: int, seeds: bool
) -> tuple[int, Status, OldFile | None]:
    """unlink or rmdir; the descriptor and status (from before) of what was removed. With `seeds`
    also the file opened, if that was its last name and it is worth it.
    """
    fd, status = look_up(parent_fd, name, asks)
    old: OldFile | None = None
    try:
        if folder:
            os.rmdir(name, dir_fd=parent_fd)
        else:
            if seeds and status.nlink == 1:
                old = seed_search.open_old(fd, status)
            os.unlink(name, dir_fd=parent_fd)
    except OSError:
        os.close(fd)
        if old is not None:
            os.close(old.fd)
        raise
    return fd, status, old


def rename(
    src_fd: int,
    src: bytes,
    dst_fd: int,
    dst: bytes,
    flags: int,
    caller: Credentials,
    asks: int,
) -> tuple[Status, tuple[int, Status] | None]:
    """rename; the status of what was moved, and descriptor and status (from before) of what it met
    there.
    """
    met = None
    moved = status_of(src_fd, src, asks)
    with contextlib.suppress(FileNotFoundError):
        met = look_up(dst_fd, dst, asks)
    try:
        tree.rename(src_fd, src, dst_fd, dst, flags, caller)
    except OSError:
        if met:
            os.close(met[0])
        raise
    return moved, met


def list_folder(fd: int, keeps_atime: bool) -> list[bytes]:
    return tree.list_names(fd, keeps_atime)


def stat_names(folder_fd: int, names: list[bytes], asks: int) -> list[Status | int]:
    """The status of each name, see `status_of`; its errno where it cannot be looked at."""
    found: list[Status | int] = []
    for name in names:
        try:
            found.append(status_of(folder_fd, name, asks))
        except OSError as exc:
            found.append(exc.errno or errno.EIO)
    return found


def ask_to_write(fd: int, flags: int) -> None:
    """Let the file system below refuse one more open for writing, with `flags`, of a file that is
    written already: it may have become immutable or append-only meanwhile (chattr(1)).
    """
    wanted = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | (flags & os.O_APPEND)
    try:
        os.close(os.open(tree.fd_path(fd), wanted))
    except OSError as exc:
        if exc.errno != errno.EACCES:  # by mode, which the kernel has asked the caller about
            raise


def open_reader(
    path_fd: int,
    keeps_atime: bool,
    abilities: Abilities,
    check: Callable[[int], None] = lambda _fd: None,
) -> Reader:
    """For a client's reads of the inode of the O_PATH descriptor `path_fd`; with `keeps_atime` they
    move no time of access, where that is permitted. `check` is called with the new descriptor, and
    may refuse.
    """
    fd, keeps = tree.open_for_reading(path_fd, os.O_NONBLOCK, keeps_atime)
    try:
        check(fd)
        flags = os.ST_NOATIME if keeps else atime.mount_flags(fd)
        return Reader(fd, flags, abilities.tells_holes(fd))
    except OSError:
        os.close(fd)
        raise


def sets_nothing(fields: AnyFields) -> bool:
    """Whether a request to set attributes leaves all of them."""
    return not (
        fields.update_mode
        or fields.update_uid
        or fields.update_gid
        or fields.update_size
        or fields.update_atime
        or fields.update_mtime
    )


def set_attributes(
    fd: int,
    fields: AnyFields,
    attr: pyfuse3.EntryAttributes,
    caller: Credentials,
    check: Callable[[int], None] | None,
) -> None:
    """Owner, mode and times of the inode of the O_PATH descriptor `fd`; the size was set before.

    A request that sets nothing is a chown(2) that leaves owner and group. `check` is what opening
    the file would check, if nobody writes it: it goes by the mtime, which is to change.
    """
    if check is not None and fields.update_mtime:
        _check_unopened(fd, check)
    if fields.update_uid or fields.update_gid or sets_nothing(fields):
        uid = attr.st_uid if fields.update_uid else -1
        _set_owner(fd, uid, attr.st_gid if fields.update_gid else -1, caller)
    if fields.update_mode:
        os.chmod(tree.fd_path(fd), stat.S_IMODE(attr.st_mode))
    if fields.update_atime or fields.update_mtime:
        tree.set_times(
            fd,
            attr.st_atime_ns if fields.update_atime else None,
            attr.st_mtime_ns if fields.update_mtime else None,
        )


def _check_unopened(path_fd: int, check: Callable[[int], None]) -> None:
    """Open a file for `check`, if it has a mark."""
    is_marked = tree.find_xattr(path_fd, recovery_attribute.NAME) is not None
    if is_marked and stat.S_ISREG(os.fstat(path_fd).st_mode):
        fd, _ = tree.open_for_reading(path_fd, os.O_NONBLOCK, keeps_atime=True)
        try:
            check(fd)
        finally:
            os.close(fd)


def _set_owner(fd: int, uid: int, gid: int, caller: Credentials) -> None:
    """Set owner and group; -1 leaves one. That takes setuid and setgid, which only the owner may:
    the kernel asks nobody where both are left.
    """
    status = statx(fd)
    if status.mode & _SETID and not stat.S_ISDIR(status.mode):
        is_owner = caller.uid in {0, status.uid}
        if uid == gid == -1 and not is_owner and _taken_setid(status, caller):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        drop_foreign_setgid(fd, caller)
    syscalls.chown(fd, uid, gid)


def drop_setid(fd: int, caller: Credentials | None) -> None:
    """Take setuid and setgid from the file of `fd`, whose content is changed by `caller`, or by
    somebody without privileges.
    """
    status = statx(fd)
    taken = _taken_setid(status, caller)
    if not taken or (caller and credentials.is_capable(caller, credentials.CAP_FSETID)):
        return
    try:
        os.chmod(tree.fd_path(fd), stat.S_IMODE(status.mode) & ~taken)
    except PermissionError:
        # An ordinary user's daemon may not, and the kernel does it when it writes below.
        if os.geteuid() == 0:
            raise


def _taken_setid(status: Status, caller: Credentials | None) -> int:
    """What a change by `caller` takes: setuid, and setgid if the group may execute the file or the
    caller is not in it (setattr_should_drop_suidgid in the kernel; inode(7)).
    """
    taken = status.mode & stat.S_ISUID
    is_foreign = caller is not None and _is_foreign(caller, status.gid)
    if status.mode & stat.S_IXGRP or is_foreign:
        taken |= status.mode & stat.S_ISGID
    return taken


def _is_foreign(caller: Credentials, gid: int) -> bool:
    """Whether a process is neither in a group nor may do as if it were (in_group_or_capable)."""
    return not (
        credentials.in_group(caller, gid) or credentials.is_capable(caller, credentials.CAP_FSETID)
    )


def drop_foreign_setgid(fd: int, caller: Credentials) -> None:
    """Take setgid from the file of `fd` if the process that changes its owner or its ACL is not in
    its group, as the kernel does for a plain folder (posix_acl_update_mode).
    """
    status = statx(fd)
    if status.mode & stat.S_ISGID and _is_foreign(caller, status.gid):
        os.chmod(tree.fd_path(fd), stat.S_IMODE(status.mode) & ~stat.S_ISGID)


def flush(fd: int) -> None:
    """Let the file system below report what it holds back until close (network file systems do)."""
    os.close(os.dup(fd))
