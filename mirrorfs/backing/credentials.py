"""The credentials of a caller: who makes a request, and what proc(5) tells of that process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

CAP_FSETID = 4  # linux/capability.h


class Credentials(NamedTuple):
    """Who makes a request (fuse_in_header in linux/fuse.h).

    `pid` leads to what FUSE does not pass on: supplementary groups and capabilities. `umask` holds
    for a new object where the folder has no default ACL (acl(5), "OBJECT CREATION").
    """

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0


def in_group(caller: Credentials, gid: int) -> bool:
    """Whether a process is in the group `gid`, also by its supplementary groups, of which nothing
    is known if the process has ended or lives in another pid namespace.
    """
    return caller.gid == gid or str(gid) in _words(caller.pid, "Groups:")


def is_capable(caller: Credentials, capability: int) -> bool:
    """Whether a process has a capability (capabilities(7)) in the daemon's user namespace, where
    alone it counts. Of processes that /proc does not show, root's have it.
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
