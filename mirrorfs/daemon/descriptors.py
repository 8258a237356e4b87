"""What a child process keeps of the descriptors that it inherits from the command."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def close_inherited(keep: Iterable[int]) -> None:
    """Close every descriptor but those to `keep`; the standard streams then lead to /dev/null.

    A process that waits for the end of a pipe, or for a lock, of the command would otherwise wait
    for the child process, too.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    kept = {0, 1, 2, *keep}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
                os.close(fd)
