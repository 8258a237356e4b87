"""Whether the daemon of a mount answers, hangs or is dead, and what the user can do about it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.daemon import processes, timed_calls
from mirrorfs.errors import NoAnswerError

if TYPE_CHECKING:
    from mirrorfs.backing.mounts import Mount

# What the kernel answers for a mount whose daemon has died (fs/fuse/dev.c).
DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})


def is_dead(mount: Mount) -> bool:
    """Whether the daemon of `mount` has died; NoAnswerError if it hangs instead."""
    try:
        return timed_calls.touch(mount.path) in DEAD
    except NoAnswerError:
        raise hanging(mount) from None


def hanging(mount: Mount) -> NoAnswerError:
    """The error for a mount that did not answer in time."""
    place = show(mount.path)
    pid = processes.daemon_of(mount)
    if pid is None:
        who = "its daemon hangs"
    elif processes.is_stopped(pid):
        who = f"process {pid} is stopped ('kill -CONT {pid}' lets it go on)"
    else:
        who = f"process {pid} hangs"
    return NoAnswerError(
        f"{place}: the mirrorfs here does not answer: {who}; "
        f"'mirrorfs umount --lazy {place}' takes it away"
    )


def dead(mount: Mount) -> NoAnswerError:
    """The error for a mount whose daemon died."""
    place = show(mount.path)
    return NoAnswerError(
        f"{place}: the daemon of this mirrorfs is dead; the same mount command replaces it, or "
        f"'mirrorfs umount {place}' removes it"
    )
