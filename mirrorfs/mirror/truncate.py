"""Set the size of a mirrored file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.mirror import seeding
from mirrorfs.mirror.file import count_freed, resize

if TYPE_CHECKING:
    from mirrorfs.mirror.counters import Account
    from mirrorfs.mirror.file import MirrorFile


def truncate(file: MirrorFile, size: int, account: Account, seeds: bool = False) -> None:
    """Set the size, in bytes, and count what that frees below.

    With `seeds`, a file that is cut keeps its blocks as the seed of what is written next, where
    that is worth it. Without, a last block that is cut down to zeros becomes a hole: it would
    otherwise stay stored until it is written again.
    """
    with file.lock:
        if file.tail is not None:
            seeding.resize_visible(file, file.tail, size)
            return
        if seeds and seeding.keep(file, size):
            return
        before = os.fstat(file.fd)
        resize(file, before.st_size, size)
        count_freed(file, before, account)
