"""What the kernel says of the process that made a request (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

CAP_FSETID = 4  # linux/capability.h


def in_group(pid: int, gid: int, wanted_gid: int) -> bool:
    """Whether the process `pid`, whose group is `gid`, is in `wanted_gid`; FUSE does not pass on
    its supplementary groups. False for a process that is gone or lives in another pid namespace.
    """
    if gid == wanted_gid:
        return True
    return str(wanted_gid) in _words(pid, "Groups:")


def is_capable(pid: int, uid: int, capability: int) -> bool:
    """Whether the process `pid` of user `uid` has a capability (capabilities(7)), and has it in our
    user namespace, where alone it counts. Of a process that cannot be asked, root's has it.
    """
    try:
        is_ours = os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return uid == 0
    words = _words(pid, "CapEff:")
    return is_ours and bool(words) and bool(int(words[0], 16) >> capability & 1)


def _words(pid: int, name: str) -> list[str]:
    """What a line of /proc/PID/status says after its name; nothing if there is none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in status.splitlines():
        if line.startswith(name):
            return line.split()[1:]
    return []
