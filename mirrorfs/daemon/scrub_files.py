"""The regular files below a backing folder that a scrub reads, in an order that stays, and the
digest files that belong to none.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import mounts, state_folder
from mirrorfs.backing.digest_file import Identity
from mirrorfs.backing.statx import statx
from mirrorfs.daemon import timed_calls
from mirrorfs.mirror.known_digests import MAX_BYTES, WORTH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrorfs.daemon.scrub_place import ScrubPlace


_TOO_LARGE = "is larger than 16 TiB; of such files no digests are kept"


class Files(NamedTuple):
    """What there is. `worth` are the files that have digests, with their sizes, by path below the
    backing folder, in ascending order; `unread` the folders that cannot be looked into, and the
    files that are too large, and why.
    """

    worth: dict[bytes, int]
    small: int
    unread: dict[bytes, str]


def find(root: bytes, below: bytes, should_stop: Callable[[], bool]) -> Files:
    """The files at or below a path in the backing folder `root`, but for what mirrorfs keeps there
    itself, and what lies in a mirrorfs that is mounted inside. Raises OSError, and NoAnswerError
    for a mount inside that does not answer.
    """
    start = os.path.join(root, below) if below else root
    foreign: set[bytes] = set()
    for mount in mounts.mount_table():
        if (mount.path + b"/").startswith(start.rstrip(b"/") + b"/") and mount.path != root:
            if mount.fs_type == mounts.MIRRORFS_TYPE:
                foreign.add(mount.path)
            else:
                timed_calls.touch(mount.path)
    worth: dict[bytes, int] = {}
    unread: dict[bytes, str] = {}
    small = 0
    left = [below]
    if below and not os.path.isdir(start):
        size = os.lstat(start).st_size
        if size > MAX_BYTES:
            return Files({}, 0, {below: _TOO_LARGE})
        is_worth = size >= WORTH_BYTES
        return Files({below: size} if is_worth else {}, int(not is_worth), {})
    while left and not should_stop():
        folder = left.pop()
        try:
            with os.scandir(os.path.join(root, folder) if folder else root) as entries:
                for entry in entries:
                    path = folder + b"/" + entry.name if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if path != state_folder.FOLDER and os.path.join(root, path) not in foreign:
                            left.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):  # removed just now
                            size = entry.stat(follow_symlinks=False).st_size
                            small += size < WORTH_BYTES
                            if size > MAX_BYTES:
                                unread[path] = _TOO_LARGE
                            elif size >= WORTH_BYTES:
                                worth[path] = size
        except OSError as exc:
            if exc.errno != errno.ENOENT or not folder:
                unread[folder] = exc.strerror or str(exc)
    return Files(dict(sorted(worth.items())), small, unread)


def remove_orphans(where: ScrubPlace, names: Iterable[bytes], paths: Iterable[bytes]) -> int:
    """Remove those of the digest files `names` that belong to none of the files `paths`, unless a
    session is under way of one that has no name any more; returns how many. Files in a file system
    that is mounted inside may be back tomorrow. Raises OSError.
    """
    met: set[bytes] = set()
    for path in paths:
        with contextlib.suppress(OSError):
            met.add(where.identity(statx(where.root_fd, path)).name)
    devices = {name.partition(b"-")[0] for name in met} | {b"0"}
    count = 0
    for name in names:
        identity = _identity(name)
        if identity is None or name in met or name.partition(b"-")[0] not in devices:
            continue
        with contextlib.suppress(BlockingIOError):
            file = where.folder.try_open(identity)
            if file is not None:
                where.folder.remove(identity)
                file.close()
                count += 1
    return count


def _identity(name: bytes) -> Identity | None:
    """What a digest file is of, by its name; None for what is none."""
    try:
        device, inode, born_ns = (int(word, 16) for word in name.split(b"-"))
    except ValueError:
        return None
    identity = Identity(device, inode, born_ns)
    return identity if identity.name == name else None
