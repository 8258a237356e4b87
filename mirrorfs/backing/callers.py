"""What the kernel says of the process that made a request (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CAP_FSETID = 4  # linux/capability.h


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; `pid` leads to what FUSE does not pass on."""

    uid: int
    gid: int
    pid: int


def in_group(caller: Caller, gid: int) -> bool:
    """Whether a process is in the group `gid`, if only by its supplementary groups. Of these,
    nothing is known of a process that is gone or lives in another pid namespace.
    """
    return caller.gid == gid or str(gid) in _words(caller.pid, "Groups:")


def is_capable(caller: Caller, capability: int) -> bool:
    """Whether a process has a capability (capabilities(7)), and has it in our user namespace, where
    alone it counts. Of processes that cannot be asked, root's have it.
    """
    try:
        is_ours = os.readlink(f"/proc/{caller.pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return caller.uid == 0
    words = _words(caller.pid, "CapEff:")
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
