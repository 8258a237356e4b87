"""Makes the kernel forget what it knows of a mount."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.mounted import Mirror


def drop_caches() -> None:
    """All names and inodes that are not in use (proc_sys_vm(5))."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def forget_all(mirror: Mirror) -> None:
    """Drop them, and wait until the mount knows; the root is always known."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        drop_caches()
        text = (mirror.path / ".mirrorfs/metrics").read_text()
        known = re.search(r"^mirrorfs_known_inodes\S* (\S+)", text, re.MULTILINE)
        assert known
        if float(known[1]) <= 1:
            return
        time.sleep(0.05)
    raise AssertionError("the kernel does not forget")
