"""The mark of an unsettled file: an extended attribute of the backing file that says how much of it
is what a client has written.

A file is unsettled while old blocks lie in it beyond that (`mirror.seeding`). After a crash the
mark says where they begin, as long as the file is still what the crash has left
(`mirror.recovery`). It is small enough to lie in the inode itself on ext4 and xfs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table

if TYPE_CHECKING:
    from mirrorfs.backing.statx import Status

NAME = b"user.mirrorfs.unsettled"
_VERSION = 3
# Not longer: with its name it fills what ext4 has for attributes in an inode of 256 bytes.
_FORMAT = struct.Struct("<B4s4sQQQ4sHII4s")
# Version, and the formats of older ones, whose places are in tables of another form.
_OLD_FORMATS = ((2, struct.Struct("<B8sQQQ8sI")), (1, struct.Struct("<B8sQQQ")))
# A mark that is older than that is made anew before the file is changed.
FRESH_SECONDS = 5
_NO_PLACE = 0xFFFF
_MAX_SECONDS = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class RecoveryAttribute:
    """Sizes in bytes. Up to `durable` the content is on the disk, up to `frontier` it was written
    by clients; from there to `size`, the file's size for clients, it is zeros.

    `instance` names the boot and the mount of the file system below in which the mark was made
    (`instance_of`): only there does what was written, but not synced, still exist. Where there is a
    `table` (`ledger`), `frontier` and `size` may be old, and `place` in it says what they are.

    `file` names the inode that was marked (`file_of`), so that a copied attribute is known as such.
    `mtime` is the file's when it was marked last, in whole seconds; it is marked again before it is
    changed much later. `entry` is its number on the list in the state folder with the id `state`.
    Older versions did not tell these.
    """

    instance: bytes
    durable: int
    frontier: int
    size: int
    table: bytes = progress_table.NONE
    place: int = progress_table.NO_PLACE
    file: bytes = b""
    entry: int = 0
    mtime: int | None = None
    state: bytes = b""


def write(fd: int, mark: RecoveryAttribute) -> None:
    """Set the mark of the file `fd`. Raises OSError, EOPNOTSUPP where there are no attributes."""
    place = mark.place if mark.place != progress_table.NO_PLACE else _NO_PLACE
    value = _FORMAT.pack(
        _VERSION,
        mark.instance,
        mark.file,
        mark.durable,
        mark.frontier,
        mark.size,
        mark.table,
        place,
        mark.entry & 0xFFFFFFFF,
        max(0, min(mark.mtime or 0, _MAX_SECONDS)),
        mark.state,
    )
    os.setxattr(fd, NAME, value)


def read(fd: int) -> RecoveryAttribute | None:
    """The mark of the file `fd`; None if it has none, or one that is not ours."""
    try:
        value = os.getxattr(fd, NAME)
    except OSError as exc:
        # What our user may not read has never been marked by us.
        if exc.errno in {errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}:
            return None
        raise
    if len(value) == _FORMAT.size and value[0] == _VERSION:
        _, instance, file, durable, frontier, size, table, place, entry, mtime, state = (
            _FORMAT.unpack(value)
        )
        where = place if place != _NO_PLACE else progress_table.NO_PLACE
        return RecoveryAttribute(
            instance, durable, frontier, size, table, where, file, entry, mtime, state
        )
    for version, form in _OLD_FORMATS:
        if len(value) == form.size and value[0] == version:
            return RecoveryAttribute(*form.unpack(value)[1:])
    return None


def remove(fd: int) -> None:
    """Take the mark away, if there is one. Raises OSError where that is not possible: the file is
    immutable (chattr(1)), say.
    """
    try:
        os.removexattr(fd, NAME)
    except OSError as exc:
        if exc.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
            raise


def instance_of(status: Status) -> bytes:
    """Names this boot of the machine and this mount of the file system of a file with this status.

    A file system that was unmounted meanwhile, or whose machine was restarted, may have lost what
    was not synced (statx(2), STATX_MNT_ID_UNIQUE: never used twice, since Linux 6.8).
    """
    return _digest(f"{_boot_id()} {status.dev} {status.mount_id}")[:4]


def file_of(status: Status) -> bytes:
    """Names an inode within its file system, wherever that is mounted."""
    return _digest(f"{status.ino} {status.btime_ns}")[:4]


def is_of_this_mount(mark: RecoveryAttribute, status: Status) -> bool:
    """Whether the mark was made in this mount of the file system below, and of this file."""
    made = _digest(f"{_boot_id()} {status.dev} {status.mount_id}")
    return made.startswith(mark.instance) and is_of_this_file(mark, status)


def is_of_this_file(mark: RecoveryAttribute, status: Status) -> bool:
    """Whether the mark was made of the file with this status, as far as it tells."""
    return mark.file in {b"", file_of(status)}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
