"""Cut off what is old in a file, also where there is no space to copy a block for that.

Guarantees: the file below ends up with its logical size, and with holes beyond the valid length; a
failure leaves old blocks only behind the recovery attribute that says where they begin. A crash
leaves a file that still has its attribute. Called under the lock of the open file.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls, tree
from mirrorfs.mirror.resizing import resize

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile


def cut(file: OpenFile, before: os.stat_result, valid_length: int, size: int) -> OSError | None:
    """Let a file, of which `before` is the status below, end at `valid_length` (bytes), with a hole
    from there to `size`, and keep its mtime: the client that set it, or wrote last, is done.

    Returns the error if there is no space for the last piece before `valid_length`, which is then
    zeros. Raises OSError if it cannot be cut at all.
    """
    failure: OSError | None = None
    file.begin_change()
    try:
        resize(file, before.st_size, valid_length)
    except OSError as exc:
        if exc.errno not in syscalls.NO_SPACE:
            raise
        failure = _cut_in_shared_block(file, before.st_size, valid_length)
    file.begin_change()
    resize(file, os.fstat(file.fd).st_size, size)
    with contextlib.suppress(OSError):  # only root and the owner may
        tree.set_times(file.fd, None, before.st_mtime_ns)
    file.end_change()
    return failure


def _cut_in_shared_block(file: OpenFile, old_size: int, valid_length: int) -> OSError | None:
    """Cut a file whose last block has to be copied for that, since another file shares it: whole
    blocks first, which needs no space; returns the error if there is none for the rest even then.
    """
    start = valid_length - valid_length % file.rules.block_bytes
    rest = os.pread(file.fd, valid_length - start, start)
    resize(file, old_size, start)
    file.begin_change()
    try:
        file.store(start, rest)
        file.make_durable(os.fdatasync)
    except OSError as exc:
        # The page cache may go on showing what never reached the disk; a cut drops it for good.
        with contextlib.suppress(OSError):
            resize(file, os.fstat(file.fd).st_size, start)
        return exc
    return None
