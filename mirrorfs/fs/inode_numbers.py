"""The inode numbers that clients see, which are our node ids, too: derived, never counted, so that
an inode gets the same one again after the kernel forgot it, and after a remount.

The root's device keeps its own numbers. Those of another device are shifted by a number made of the
file system's identity, into the upper half of what is left to us: two file systems overlap with the
probability of the size of their numbers to 2^62. What a mount point leads to has a number made of
its place, since its own may not be had without waiting.
"""

from __future__ import annotations

import hashlib

ROOT_ID = 1
FIRST_OTHER_ID = 1 << 62
FIRST_CONTROL_ID = 1 << 63
_MASK = FIRST_OTHER_ID - 1
_STEP = 0x1E3779B97F4A7C15  # odd, so that a walk by it meets every number


def shift_of(identity: bytes, attempt: int = 0) -> int:
    """By how much the numbers of a file system are shifted; `attempt` makes it another one."""
    return _hash(b"%d %s" % (attempt, identity)) & _MASK


def is_own(number: int) -> bool:
    """Whether a number of the root's device can be kept."""
    return ROOT_ID < number < FIRST_OTHER_ID


def shifted(shift: int, number: int) -> int:
    """The number that clients see of an inode on a device that is not the root's."""
    return FIRST_OTHER_ID | ((shift + number) & _MASK)


def of_place(parent_id: int, name: bytes) -> int:
    """The number of what is mounted on `name` in the folder `parent_id`."""
    return FIRST_OTHER_ID | (_hash(b"%d/%s" % (parent_id, name)) & _MASK)


def generation_of_mount(number: int, mount_id: int) -> int:
    """Tells what is mounted at a place from what was mounted there before."""
    return _hash(b"%d %d" % (number, mount_id)) & 0xFFFFFFFF or 1


def next_to_try(number: int) -> int:
    """Another number in place of one that is taken."""
    return FIRST_OTHER_ID | ((number + _STEP) & _MASK)


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
