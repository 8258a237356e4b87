"""The mark of an unsettled file: an extended attribute of the backing file that says how much of it
is what a client has written.

A file is unsettled while old blocks lie in it beyond that (`mirror.seeding`). After a crash the
mark says where they begin. It is small enough to lie in the inode itself on ext4 and xfs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mirrorfs.backing import ledger
from mirrorfs.backing.statx import statx

NAME = b"user.mirrorfs.unsettled"
_VERSION = 2
_FORMAT = struct.Struct("<B8sQQQ8sI")
_FIRST_FORMAT = struct.Struct("<B8sQQQ")


@dataclass(frozen=True, slots=True)
class Mark:
    """Sizes in bytes. Up to `durable` the content is on the disk, up to `frontier` it was written
    by clients; from there to `size`, the file's size for clients, it is zeros.

    `instance` names the boot and the mount of the file system below in which the mark was made
    (`instance_of`): only there does what was written, but not synced, still exist. Where there is a
    `table` (`ledger`), `frontier` and `size` may be old, and `place` in it says what they are.
    """

    instance: bytes
    durable: int
    frontier: int
    size: int
    table: bytes = ledger.NONE
    place: int = 0


def write(fd: int, mark: Mark) -> None:
    """Set the mark of the file `fd`. Raises OSError, EOPNOTSUPP where there are no attributes."""
    sizes = (mark.durable, mark.frontier, mark.size)
    value = _FORMAT.pack(_VERSION, mark.instance, *sizes, mark.table, mark.place)
    os.setxattr(fd, NAME, value)


def read(fd: int) -> Mark | None:
    """The mark of the file `fd`; None if it has none, or one that is not ours."""
    try:
        value = os.getxattr(fd, NAME)
    except OSError as exc:
        if exc.errno in {errno.ENODATA, errno.EOPNOTSUPP}:
            return None
        raise
    for version, form in ((_VERSION, _FORMAT), (1, _FIRST_FORMAT)):
        if len(value) == form.size and value[0] == version:
            return Mark(*form.unpack(value)[1:])
    return None


def remove(fd: int) -> None:
    """Take the mark away, if there is one."""
    with contextlib.suppress(OSError):
        os.removexattr(fd, NAME)


def instance_of(fd: int) -> bytes:
    """Names this boot of the machine and this mount of the file system of `fd`, in 8 bytes.

    A file system that was unmounted meanwhile, or whose machine was restarted, may have lost what
    was not synced (statx(2), STATX_MNT_ID_UNIQUE: never used twice, since Linux 6.8).
    """
    status = statx(fd)
    text = f"{_boot_id()} {status.dev} {status.mount_id}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
