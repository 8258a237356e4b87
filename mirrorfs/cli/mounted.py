"""Find mirrorfs mounts and ask them, without ever waiting for one that does not answer."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

from mirrorfs.backing import mounts
from mirrorfs.errors import NoAnswerError, NotAMountError

if TYPE_CHECKING:
    from types import FrameType

ANSWER_SECONDS = 10
# On the root of a mount: the content of stats.json, which is thus found whatever the control folder
# is called.
STATS_ATTRIBUTE = "user.mirrorfs.stats"


def require(path: bytes) -> mounts.Mount:
    """The mirrorfs mount at `path`; NotAMountError if there is none."""
    mount = mounts.mounted_at(path)
    if mount is None or mount.fs_type != mounts.MIRRORFS_TYPE:
        raise NotAMountError(
            f"{os.fsdecode(path)}: not a mirrorfs mount; 'mirrorfs stats' lists those there are"
        )
    return mount


def mount_above(path: bytes) -> bytes:
    """The mount point of the mirrorfs that `path` lies in; NotAMountError if it lies in none."""
    points = {mount.path for mount in mounts.mirror_mounts()}
    folder = path
    while folder not in points:
        if folder == b"/":
            raise NotAMountError(f"{os.fsdecode(path)}: not in a mirrorfs mount")
        folder = os.path.dirname(folder)
    return folder


def read_stats(mount_point: bytes) -> dict[str, Any]:
    """stats.json of a mount. NoAnswerError if it does not answer in time."""
    with _Alarm(mount_point):
        stats: dict[str, Any] = json.loads(os.getxattr(mount_point, STATS_ATTRIBUTE))
    return stats


def daemon_pid(mount_point: bytes) -> int | None:
    """The daemon's process number, or None if the mount does not say."""
    try:
        return int(read_stats(mount_point)["pid"])
    except (OSError, ValueError, NoAnswerError):
        return None


class _Alarm:
    """Raise NoAnswerError in the block when it lasts too long."""

    def __init__(self, mount_point: bytes) -> None:
        self._mount_point = mount_point

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._give_up)
        signal.alarm(ANSWER_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)

    def _give_up(self, _number: int, _frame: FrameType | None) -> None:
        raise NoAnswerError(
            f"{os.fsdecode(self._mount_point)}: no answer within {ANSWER_SECONDS} seconds"
        )
