"""The credentials of the caller: who makes a request, and what proc(5) says of that process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

CAP_FSETID = 4  # linux/capability.h


class Credentials(NamedTuple):
    """The credentials of the process that makes a request (fuse_in_header in linux/fuse.h).

    `pid` leads to what FUSE does not pass on: supplementary groups and capabilities. `umask` holds
    for what the process makes where the folder has no default ACL (acl(5), "OBJECT CREATION").
    """

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0


def in_group(caller: Credentials, gid: int) -> bool:
    """Whether the caller is in the group `gid`, also by its supplementary groups, of which nothing
    is known if the process has ended or lives in another pid namespace.
    """
    return caller.gid == gid or str(gid) in _words(caller.pid, "Groups:")


def is_capable(caller: Credentials, capability: int) -> bool:
    """Whether the caller has the capability with this number (capabilities(7)) in the daemon's user
    namespace, where alone it counts. Of processes that /proc does not show, root's have it.
    """
    try:
        is_here = os.readlink(f"/proc/{caller.pid}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return caller.uid == 0
    words = _words(caller.pid, "CapEff:")
    return is_here and bool(words) and bool(int(words[0], 16) >> capability & 1)


def _words(pid: int, name: str) -> list[str]:
    """The words after `name` in /proc/PID/status; none if there is no such line or process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in status.splitlines():
        if line.startswith(name):
            return line.split()[1:]
    return []
