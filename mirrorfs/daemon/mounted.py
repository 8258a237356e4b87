"""Find mirrorfs mounts and read their statistics, without ever waiting for one that hangs."""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any

from mirrorfs.backing import mounts
from mirrorfs.backing.paths import show
from mirrorfs.daemon import health, timed_calls
from mirrorfs.daemon.timed_calls import ANSWER_SECONDS
from mirrorfs.errors import MirrorfsError, NotAMountError, PrivateError

# On the root of a mount: the content of stats.json, which is thus found whatever the control folder
# is called.
STATS_ATTRIBUTE = "user.mirrorfs.stats"
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})


def at(path: str) -> mounts.Mount:
    """The mirrorfs mount at `path`, as a user types it; NotAMountError if there is none."""
    point = timed_calls.resolve(os.fsencode(path))
    mount = mounts.mounted_at(point)
    if mount is None or mount.fs_type != mounts.MIRRORFS_TYPE:
        raise NotAMountError(
            f"{show(point)}: not a mirrorfs mount; 'mirrorfs stats' lists those there are"
        )
    return mount


def above(path: bytes) -> mounts.Mount:
    """The mirrorfs mount that `path`, without symbolic links, lies in; NotAMountError if it lies in
    none.
    """
    mount = covering(path)
    if mount is None or mount.fs_type != mounts.MIRRORFS_TYPE:
        raise _not_in_a_mount(path)
    return mount


def covering(path: bytes) -> mounts.Mount | None:
    """The mount that `path`, absolute and without symbolic links, lies in, of whatever type; None
    if this namespace does not show it.
    """
    topmost = {mount.path: mount for mount in mounts.mount_table()}
    folder = path
    while folder not in topmost and folder != b"/":
        folder = os.path.dirname(folder)
    return topmost.get(folder)


def _not_in_a_mount(path: bytes) -> MirrorfsError:
    place = show(path)
    if timed_calls.touch(path) in _MISSING:
        return MirrorfsError(f"{place}: no such file")
    for mount in every():
        if path == mount.source or path.startswith(mount.source.rstrip(b"/") + b"/"):
            through = os.path.normpath(mount.path + path[len(mount.source) :])
            return NotAMountError(
                f"{place}: lies in the backing folder; the mirrorfs on {show(mount.path)} serves "
                f"it: 'mirrorfs stats {show(through)}'"
            )
    return NotAMountError(
        f"{place}: not in a mirrorfs mount; 'mirrorfs stats' lists those there are"
    )


def every() -> list[mounts.Mount]:
    """All mirrorfs mounts that no other mount covers, by path."""
    topmost = {mount.path: mount for mount in mounts.mount_table()}
    return [
        topmost[path] for path in sorted(topmost) if topmost[path].fs_type == mounts.MIRRORFS_TYPE
    ]


class Statistics:
    """The account of a mount, or of the file `path` in it. The request is sent at once, and the
    answer read later, so that many mounts that hang cost no more time than one.
    """

    def __init__(self, mount: mounts.Mount, path: bytes | None = None) -> None:
        self._mount = mount
        self._path = path or mount.path
        self._request = timed_calls.TimedCall(os.getxattr, self._path, STATS_ATTRIBUTE)
        self._end = time.monotonic() + ANSWER_SECONDS

    def read(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """The content of stats.json, or the file's counters, in `seconds` at most.

        Raises NoAnswerError for a daemon that is dead or hangs, PrivateError for what the caller
        may not see, NotAMountError for what has no counters, and else MirrorfsError.
        """
        try:
            answer = self._request.answer(min(self._end, time.monotonic() + seconds))
        except TimeoutError:
            raise health.hanging(self._mount) from None
        except OSError as exc:
            raise explained(self._mount, self._path, exc) from None
        return parsed(self._path, answer)


def running_options(mount: mounts.Mount) -> dict[str, Any]:
    """The options of a mount, as it tells them itself (config.json). Raises MirrorfsError."""
    control = str(Statistics(mount).read()["control"])
    path = os.path.join(mount.path, os.fsencode(control), b"config.json")
    try:
        found: dict[str, Any] = json.loads(timed_calls.call(_content, path))["options"]
    except OSError as exc:
        raise explained(mount, mount.path, exc) from None
    except (ValueError, LookupError):
        raise unreadable(mount.path) from None
    return found


def _content(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def parsed(path: bytes, answer: bytes) -> dict[str, Any]:
    """What the attribute of the mount, or of the file, at `path` says; MirrorfsError if it cannot
    be read.
    """
    try:
        stats: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise unreadable(path) from None
    return stats


def unreadable(path: bytes) -> MirrorfsError:
    """The error for an answer of the mount at `path` that is none of this version's."""
    return MirrorfsError(
        f"{show(path)}: what the mount tells about itself cannot be read; is it another version's?"
    )


def explained(mount: mounts.Mount, path: bytes, exc: OSError) -> MirrorfsError:
    """The error for statistics of `path`, in or on `mount`, that were refused."""
    place = show(path)
    if exc.errno in health.DEAD:
        return health.dead(mount)
    if exc.errno in _MISSING and path != mount.path:
        return MirrorfsError(f"{place}: no such file")
    if exc.errno in {errno.EACCES, errno.EPERM}:
        whose = "" if path == mount.path else ", or as one who may read the file"
        return PrivateError(
            f"{place}: you may not look in; run this as the user who mounted it{whose}"
        )
    if exc.errno in {errno.ENODATA, errno.EOPNOTSUPP}:
        return NotAMountError(f"{place}: only files and mount points have counters")
    return MirrorfsError(f"{place}: {exc.strerror}")
