"""Writes that bypass the kernel's page cache for the mount (FOPEN_DIRECT_IO), for files that copy
tools make: those that are opened for writing only, and new ones under a temporary name of such a
tool, which rsync opens for reading, too.

What is written is kept in the page cache of the file system below anyway. A second copy of it costs
as much time as all else that a large write needs, and as much memory.

Guarantees: a client that reads the file, or has it mapped, sees what was written as soon as
write(2) returns: the kernel drops what its cache holds of the range before and after such a write.
A page that is changed through a mapping meanwhile would be written back over it, so no file is
written directly while it may be mapped for writing: one that is open for reading and writing, too,
has its other writes cached; and one that is opened so while it is written directly cannot be mapped
shared (ENODEV) by way of that descriptor. What the kernel would do after a write for O_DSYNC, and
for a mount with `sync`, is done by the daemon (`content`). Nor does it take security.capability
away, so a file that has it is not written directly.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.fs.handles import FileHandle

# Linux 6.19: "fuse: Always flush the page cache before FOPEN_DIRECT_IO write" (1ce120dcefc0) and
# "fuse: Invalidate the page cache after FOPEN_DIRECT_IO write" (b359af8275a9); both are in these
# stable releases, and later ones of the same series, too.
_SINCE = (6, 19)
_STABLE = {(6, 12): 64, (6, 18): 3}


def is_coherent(release: str) -> bool:
    """Whether a kernel of this `release` (uname(2)) keeps its cache right over direct writes."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if found is None:
        return False
    series, patch = (int(found[1]), int(found[2])), int(found[3] or 0)
    return series >= _SINCE or patch >= _STABLE.get(series, patch + 1)


def refusal(option: str) -> str:
    """Why writes go through the cache with this value of `direct_writes`, whatever else there is;
    empty if they need not.
    """
    if option == "off":
        return "turned off by direct_writes=off"
    if option == "auto" and not is_coherent(os.uname().release):
        return "this kernel may show readers old data; see direct_writes"
    return ""


def choose(handle: FileHandle, others: Iterable[FileHandle], flags: int, is_copy: bool) -> None:
    """Say how a file opened with `flags` (open(2)) is written, while `others` have it open, in a
    mount that may write directly. `is_copy` is for a file that this open has made under a temporary
    name of a copy tool.
    """
    mode = flags & os.O_ACCMODE
    if mode == os.O_WRONLY or (mode == os.O_RDWR and is_copy):
        handle.is_direct = not any(other.may_map for other in others)
    elif mode == os.O_RDWR:
        handle.is_direct = any(other.is_direct for other in others)
    handle.may_map = mode == os.O_RDWR and not handle.is_direct
