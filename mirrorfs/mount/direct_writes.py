"""Writes that pass the kernel's page cache for the mount by (FOPEN_DIRECT_IO), for files that are
opened for writing only, as copy tools do.

What is written is kept in the page cache of the file system below anyway. A second copy of it costs
as much time as all else that a large write needs, and as much memory.

Guarantees: whoever reads the file, or has it mapped, sees what was written as soon as write(2)
returns. The kernel sees to that since it drops what its cache holds of the range before and after
such a write, and writes back first what was changed there through a mapping.
"""

from __future__ import annotations

import os
import re

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


def wants(flags: int) -> bool:
    """Whether a file opened with `flags` (open(2)) can only be written through that descriptor."""
    return flags & os.O_ACCMODE == os.O_WRONLY
