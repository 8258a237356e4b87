"""Seeds: a file that a client empties, or makes anew in place of an old one, is given the old
content below, invisible, so that what is written is compared with it and only the difference is
stored.

A stale tail (`stale_tail`) begins when a file is truncated (`keep`: its blocks are left where they
are) or at the first write to a new one (`plant`: a clone of the old file). As clients write, its
valid length moves (`advancing`), until it ends (`finalising`).

Guarantees: clients never see an old block as new. After a crash no reader does either, as soon as
the next mount has looked at the recovery list: the recovery attribute of the file says how far it
was valid, or where that was noted (`progress`). Both are on the disk before any content below is
changed. Until that next mount, the backing file looks like an unfinished copy over the old one.

`keep` and `plant` are called under the lock of the open file; the lock of the recovery list is
taken inside.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing import recovery_attribute, syscalls
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import progress, seed_rules
from mirrorfs.mirror.finalising import finalise
from mirrorfs.mirror.old_blocks import cover
from mirrorfs.mirror.stale_tail import StaleTail

if TYPE_CHECKING:
    from mirrorfs.backing.recovery_list import RecoveryList
    from mirrorfs.mirror.open_file import OpenFile


def keep(file: OpenFile, size: int) -> bool:
    """Truncate a file to `size` bytes for clients only; its blocks become its seed.

    Returns False, and has done nothing, where that is not worth it or not possible. Raises OSError
    (fstat(2)).
    """
    status = os.fstat(file.fd)
    if not (
        file.recovery_list is not None
        and file.rules.skip
        and file.readable
        and file.abilities.punch
        and not (file.writeback.failed or file.append_only or file.writeback.reserved)
        and size < status.st_size
        and seed_rules.is_worth(status.st_mode, status.st_blocks)
    ):
        return False
    tail = _begin(file, file.recovery_list, size, size, shared=False)
    if tail is None:
        return False
    tail.data_bytes = size
    if size:
        cover(file, tail, size, status.st_size)
    else:
        tail.hidden_bytes = status.st_blocks * 512
    return True


def plant(file: OpenFile) -> None:
    """Put a clone of the file of `seed_fd`, which is closed, under a new file, if nothing is in it
    yet. Raises OSError (fstat(2)).

    Whatever speaks against it, the file system above all (ioctl_ficlonerange(2), "ERRORS"), means
    that the file has no seed.
    """
    source_fd, file.seed_fd = file.seed_fd, -1
    try:
        status = os.fstat(file.fd)
        usable = file.rules.skip and file.readable and file.abilities.punch
        if file.recovery_list is None or status.st_blocks or not usable:
            return
        tail = _begin(file, file.recovery_list, 0, status.st_size, shared=True)
        if tail is None:
            return
        try:
            file.begin_content_change()
            if file.abilities.file_system == "xfs":
                syscalls.copy_single_blocks(file.fd)
            if file.digests is not None:
                file.digests.cloned(source_fd)
            syscalls.clone(file.fd, source_fd)
            file.end_change()
            tail.hidden_bytes = os.fstat(file.fd).st_blocks * 512
            tail.changed = False
        except OSError:
            # Where it cannot be finalised now, that is tried again when it is closed.
            with contextlib.suppress(OSError):
                finalise(file, counts_freed=False)
    finally:
        os.close(source_fd)


def give_up(file: OpenFile) -> None:
    """Close the old file that is kept for the first write: its blocks are not free before. Takes
    the lock of the open file.
    """
    with file.lock:
        source_fd, file.seed_fd = file.seed_fd, -1
        if source_fd >= 0:
            os.close(source_fd)


def _begin(
    file: OpenFile, recovery_list: RecoveryList, valid_length: int, size: int, shared: bool
) -> StaleTail | None:
    """Put the file on the recovery list and give it a recovery attribute; None where one of them is
    not possible.
    """
    try:
        recovery_attribute.remove(file.fd)  # an old one must not be taken for that of this entry
        status = statx(file.fd)
        entry = recovery_list.add(file.fd, file.path())
    except OSError:
        return None
    table, now = recovery_list.progress_table, time.monotonic()
    place = table.take(entry, status.dev, status.ino)
    try:
        tail = StaleTail(
            valid_length=valid_length,
            logical_size=size,
            shared=shared,
            hidden_bytes=0,
            entry=entry,
            place=place,
            recovery_list=recovery_list,
            table=table,
            instance=recovery_attribute.instance_of(status),
            file=recovery_attribute.file_of(status),
            durable=valid_length,
            durable_since=now,
        )
        tail.note_begun()
        syscalls.touch(file.fd)
        progress.write_attribute(tail, file.fd)
    except OSError:
        with contextlib.suppress(OSError):
            recovery_attribute.remove(file.fd)
        recovery_list.remove(entry)
        table.give_back(place)
        return None
    file.seeded = True
    file.stale_tail = tail
    return tail
