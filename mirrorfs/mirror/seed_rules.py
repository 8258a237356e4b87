"""Which old file may be the seed of a new one. Pure: names and numbers in, a decision out.

A wrong guess costs the time of one clone and of comparing, and never a byte: what is written is
compared with the new file itself.
"""

from __future__ import annotations

import re
import stat

# Less than this is written again sooner than it is compared; see the page on seeds.
MIN_BYTES = 1 << 20

# Each names the file that the new one is going to replace. rsync puts a dot before the name if it
# has none.
_TEMPORARY = (
    re.compile(rb"\.(.+)\.[A-Za-z0-9]{6}", re.DOTALL),  # rsync
    re.compile(rb"(\..+)\.[A-Za-z0-9]{6}", re.DOTALL),  # rsync, of a hidden file
    re.compile(rb"(.+)\.[0-9a-f]{8}\.partial", re.DOTALL),  # rclone
    re.compile(rb"\.syncthing\.(.+)\.tmp", re.DOTALL),  # Syncthing
)


def replaced_names(name: bytes) -> list[bytes]:
    """The names in the folder of `name` to which a tool that makes it may be going to rename it,
    the likeliest first; none if `name` does not look like a temporary file.
    """
    matches = (pattern.fullmatch(name) for pattern in _TEMPORARY)
    return [match[1] for match in matches if match]


def is_worth(mode: int, blocks: int) -> bool:
    """Whether a file with this mode and `blocks` of 512 bytes is regular, with enough in it."""
    return stat.S_ISREG(mode) and blocks * 512 >= MIN_BYTES


def may_read(mode: int, owner: int, has_acl: bool, uid: int, in_group: bool) -> bool:
    """Whether the user `uid` may read a file with these attributes, of whose group they are if
    `in_group`.

    Else the counters would show what a file holds that is not theirs to read. With an access list
    (acl(5)) only root and the owner are sure to be permitted.
    """
    if uid == 0:
        return True
    if uid == owner:
        return bool(mode & stat.S_IRUSR)
    if has_acl:
        return False
    return bool(mode & (stat.S_IRGRP if in_group else stat.S_IROTH))
