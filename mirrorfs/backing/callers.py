"""What the kernel says of the process that made a request (proc(5))."""

from __future__ import annotations

from pathlib import Path


def in_group(pid: int, gid: int, wanted_gid: int) -> bool:
    """Whether the process `pid`, whose group is `gid`, is in `wanted_gid`; FUSE does not pass on
    its supplementary groups. False for a process that is gone or lives in another pid namespace.
    """
    if gid == wanted_gid:
        return True
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("Groups:"):
            return str(wanted_gid) in line.split()[1:]
    return False
