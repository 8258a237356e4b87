"""Words in `-o` that are no options of ours: those that turn a flag back, those for FUSE, and those
that mount(8), fstab and systemd use.
"""

from __future__ import annotations

# Each turns a flag on or off; of two that are about one flag, the last one holds.
SWITCHES = {
    "rw": ("ro", False),
    "noallow_other": ("allow_other", False),
    "atime": ("noatime", False),
    "strictatime": ("noatime", False),
    "diratime": ("nodiratime", False),
}
# Words that are handed to FUSE.
FUSE_WORDS = frozenset("nosuid nodev noexec sync dirsync dev suid".split())
# What takes back one of them.
OPPOSITES = {
    "nosuid": "suid",
    "suid": "nosuid",
    "nodev": "dev",
    "dev": "nodev",
    "noexec": "exec",
    "exec": "noexec",
    "sync": "async",
    "async": "sync",
    "dirsync": "async",
}
# Words that mount(8), fstab and systemd add, and that change nothing here.
ACCEPTED_WORDS = frozenset(
    "defaults nofail _netdev auto noauto user nouser users owner group relatime norelatime "
    "nostrictatime iversion noiversion lazytime nolazytime silent loud async "
    "mand nomand exec _rnetdev default_permissions".split()
)
ACCEPTED_BEGINNINGS = ("x-", "X-", "comment")
