"""The recovery attribute: an extended attribute of a backing file that says how much of it is what
clients have written.

A file has one while old blocks lie in it beyond that, its stale tail (`mirror.seeding`). After a
crash the attribute says where they begin, as long as the file is still what the crash has left
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
# An attribute that is older than that is written anew before the file is changed.
FRESH_SECONDS = 5
_NO_PLACE = 0xFFFF
_MAX_SECONDS = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class RecoveryAttribute:
    """What the attribute of one file says; sizes in bytes.

    Up to `durable` the content is on the disk, up to `valid_length` clients have written it; from
    there to `size`, the logical size, clients see zeros.

    `instance` names the boot and the mount of the file system below in which the attribute was
    written (`instance_of`): only there does what was written, but not synced, still exist. Where
    there is a `table` (`progress_table`), `valid_length` and `size` may be old, and `place` in it
    has the newest.

    `file` names the inode that it was written for (`file_of`), so that a copied attribute is known
    as such. `mtime` is the file's when it was written last, in whole seconds since the epoch; it is
    written again before the file is changed much later. `entry` is the number of the file on the
    recovery list in the state folder with the id `state`. Older versions wrote none of these four.
    """

    instance: bytes
    durable: int
    valid_length: int
    size: int
    table: bytes = progress_table.NONE
    place: int = progress_table.NO_PLACE
    file: bytes = b""
    entry: int = 0
    mtime: int | None = None
    state: bytes = b""


def write(fd: int, attribute: RecoveryAttribute) -> None:
    """Set the recovery attribute of the file `fd` (setxattr(2)).

    Raises OSError: EOPNOTSUPP where the file system has no extended attributes.
    """
    place = attribute.place if attribute.place != progress_table.NO_PLACE else _NO_PLACE
    value = _FORMAT.pack(
        _VERSION,
        attribute.instance,
        attribute.file,
        attribute.durable,
        attribute.valid_length,
        attribute.size,
        attribute.table,
        place,
        attribute.entry & 0xFFFFFFFF,
        max(0, min(attribute.mtime or 0, _MAX_SECONDS)),
        attribute.state,
    )
    os.setxattr(fd, NAME, value)


def read(fd: int) -> RecoveryAttribute | None:
    """The recovery attribute of the file `fd`; None if it has none, or one that no mirrorfs wrote.

    Raises OSError where the file system fails to tell.
    """
    try:
        value = os.getxattr(fd, NAME)
    except OSError as exc:
        # The daemon cannot have written an attribute that its user may not read.
        if exc.errno in {errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}:
            return None
        raise
    if len(value) == _FORMAT.size and value[0] == _VERSION:
        _, instance, file, durable, valid_length, size, table, place, entry, mtime, state = (
            _FORMAT.unpack(value)
        )
        where = place if place != _NO_PLACE else progress_table.NO_PLACE
        return RecoveryAttribute(
            instance, durable, valid_length, size, table, where, file, entry, mtime, state
        )
    for version, form in _OLD_FORMATS:
        if len(value) == form.size and value[0] == version:
            return RecoveryAttribute(*form.unpack(value)[1:])
    return None


def remove(fd: int) -> None:
    """Take the recovery attribute from the file `fd`, if it has one.

    Raises OSError where that is not possible: EPERM for a file that is immutable (chattr(1)).
    """
    try:
        os.removexattr(fd, NAME)
    except OSError as exc:
        if exc.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
            raise


def instance_of(status: Status) -> bytes:
    """Names this boot of the machine and this mount of the file system of a file with this status.

    A file system that was unmounted meanwhile, or whose machine was restarted, may have lost what
    was not synced. The mount id is never used twice since Linux 6.8 (statx(2),
    STATX_MNT_ID_UNIQUE).
    """
    return _digest(f"{_boot_id()} {status.dev} {status.mount_id}")[:4]


def file_of(status: Status) -> bytes:
    """Names an inode within its file system, wherever that is mounted."""
    return _digest(f"{status.ino} {status.btime_ns}")[:4]


def is_of_this_mount(attribute: RecoveryAttribute, status: Status) -> bool:
    """Whether the attribute was written in this boot and this mount of the file system below, for
    the file with this status.
    """
    # Older versions wrote all eight bytes of the digest.
    instance = _digest(f"{_boot_id()} {status.dev} {status.mount_id}")
    return instance.startswith(attribute.instance) and is_of_this_file(attribute, status)


def is_of_this_file(attribute: RecoveryAttribute, status: Status) -> bool:
    """Whether the attribute was written for the file with this status, as far as it tells."""
    return attribute.file in {b"", file_of(status)}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
