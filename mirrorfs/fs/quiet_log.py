"""Warnings about files, the same one at most once a minute, whatever file it is about."""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show

if TYPE_CHECKING:
    from mirrorfs.fs.inode import Inode

log = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
# Refusals that say nothing of the disk: limits, attributes and signals.
_WRITERS_OWN = frozenset({errno.EFBIG, errno.EPERM, errno.EINVAL, errno.EINTR, errno.ETXTBSY})


class QuietLog:
    """One for each mount."""

    def __init__(self) -> None:
        self._quiet_until: dict[str, float] = {}

    def failure(self, inode: Inode, code: int) -> None:
        """Say that data did not reach the file system below, by the errno that its writer got."""
        if code not in _WRITERS_OWN:
            self._warn(inode, f"could not be written: {os.strerror(code)}")

    def ignored_preallocation(self, inode: Inode) -> None:
        """Say that space which a client wanted was not reserved."""
        self._warn(inode, "a client asked for space, which preallocate=ignore does not reserve")

    def _warn(self, inode: Inode, what: str) -> None:
        now = time.monotonic()
        if now >= self._quiet_until.get(what, 0.0):
            self._quiet_until[what] = now + _QUIET_SECONDS
            log.warning("%s: %s", show(inode.path()), what)
