"""Where what is remembered of a backing folder lies, found from a mount, from the folder itself, or
from a file in either; whether a daemon is there; and the catalog, opened to read.

Guarantees: no mount that hangs or is dead is waited for longer than `timed_calls.ANSWER_SECONDS`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from mirrorfs.backing import state_folder
from mirrorfs.backing.mounts import MIRRORFS_TYPE
from mirrorfs.backing.paths import path_text, show
from mirrorfs.catalog import database
from mirrorfs.daemon import mounted, processes, timed_calls
from mirrorfs.errors import (
    MirrorfsError,
    NoAnswerError,
    NotAMountError,
    PrivateError,
    StateError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.backing.mounts import Mount


@dataclass(frozen=True, slots=True)
class Place:
    """A backing folder, mounted or not, and what is remembered of it. All paths are absolute and
    without symbolic links, but for `below`.
    """

    backing: bytes
    state_folder: bytes
    mount: Mount | None = None  # where it is mounted
    below: bytes = b""  # what was named, below the backing folder; empty for all of it
    trouble: str = ""  # why the mount does not answer; empty if it does, or there is none
    is_served: bool = False  # a daemon lives, which may have sessions under way
    is_noted: bool = True  # the mount notes sessions
    is_hidden: bool = False  # the mount lies over its own backing folder
    root: bytes = b""  # where its files can be looked at; empty where they cannot

    @property
    def name(self) -> bytes:
        """What it is called: by the mount point, if there is one."""
        return self.mount.path if self.mount is not None else self.backing


def every(state: bytes | None = None) -> list[Place]:
    """The places of all mirrorfs mounts that no other mount covers, each daemon's once, by path of
    the mount. `state` is as for `find`.
    """
    unique = {mount.device: _whole(mount) for mount in mounted.every()}
    found = sorted(unique.values(), key=lambda mount: mount.path)
    asked = [(mount, mounted.Statistics(mount)) for mount in found]
    return [_of_mount(mount, b"", statistics, state) for mount, statistics in asked]


def find(path: bytes, state: bytes | None = None) -> Place:
    """The place that `path`, absolute and without symbolic links, lies in: in a mount, in a backing
    folder that is mounted, or in one that is not, but has a state folder. `state` is the state
    folder, where it is known; then a folder that is not mounted is taken for a backing folder.

    Raises NotAMountError if nothing is remembered there, MirrorfsError if there is no such file,
    and NoAnswerError where a disk on the way hangs.
    """
    mount = mounted.covering(path)
    if mount is not None and mount.fs_type == MIRRORFS_TYPE:
        below = _below(mount.root + b"/" + path[len(mount.path) :])
        mount = _whole(mount)
        return _of_mount(mount, below, mounted.Statistics(mount), state)
    serving = [one for one in mounted.every() if _is_in(path, one.source)]
    if serving:
        mount = _whole(max(serving, key=lambda one: len(one.source)))
        below = _below(path[len(mount.source) :])
        return _of_mount(mount, below, mounted.Statistics(mount), state)
    backing = path if state is not None else timed_calls.call(_with_state_folder, path)
    if backing is None or (state is not None and not timed_calls.call(os.path.isdir, path)):
        raise _nothing_there(path, state)
    return Place(
        backing,
        state or os.path.join(backing, state_folder.FOLDER),
        None,
        _below(path[len(backing) :]),
        # A daemon whose mount was taken out of the tree, or lies in another mount namespace.
        is_served=_is_locked(backing),
        root=backing,
    )


@contextlib.contextmanager
def opened(place: Place) -> Iterator[sqlite3.Connection | None]:
    """The catalog of a place, for a command; None if there is none yet.

    Raises StateError for one that cannot be read, also in the middle of it, or not reached, and
    NoAnswerError where only the mount, which does not answer, would lead there.
    """
    folder = place.state_folder
    if place.mount is not None and place.is_hidden and _is_in(folder, place.mount.path):
        if place.trouble:
            raise NoAnswerError(place.trouble)
        raise StateError(
            f"{show(place.name)}: the backing folder is mounted over itself, which hides the state "
            "folder; mount it with -o state=DIR to have its history, or look when it is unmounted"
        )
    timed_calls.touch(folder)
    db = database.open_to_read(folder)
    try:
        yield db
    except sqlite3.Error as exc:
        path = show(os.path.join(folder, database.NAME))
        raise StateError(f"{path}: cannot be read ({exc})") from None
    finally:
        if db is not None:
            db.close()


def why_nothing(place: Place) -> str:
    """Why there is no catalog, and what to do, in words for the user."""
    if not place.is_noted:
        return "this mount notes no sessions: it was mounted with ro or history=0"
    where = show(place.state_folder)
    if place.mount is None:
        return (
            f"no session was noted in {where}; if it was mounted with state=DIR, pass --state DIR"
        )
    return f"no session was noted in {where} yet; copy something into {show(place.name)}"


def _of_mount(
    mount: Mount, below: bytes, statistics: mounted.Statistics, state: bytes | None
) -> Place:
    trouble, stats = "", dict[str, Any]()
    is_served = True
    try:
        stats = statistics.read()
    except NoAnswerError as exc:
        trouble = str(exc)
        is_served = processes.daemon_of(mount) is not None
    except (PrivateError, NotAMountError):
        # Of another user, or a part that is bound elsewhere; who may read the backing folder may
        # look there all the same.
        pass
    default = os.path.join(mount.source, state_folder.FOLDER)
    is_hidden = _is_hidden(mount)
    return Place(
        mount.source,
        state or _state_folder(stats.get("state_folder"), default),
        mount,
        below,
        trouble,
        is_served,
        is_noted=not stats or stats.get("state_folder") is not None,
        is_hidden=is_hidden,
        root=mount.source if not is_hidden else mount.path if stats else b"",
    )


def _state_folder(text: object, default: bytes) -> bytes:
    """The state folder that a mount has told: in text for programs, which is not exact where a
    name is not UTF-8.
    """
    if not isinstance(text, str) or text == path_text(default):
        return default
    plain = os.fsencode(text)
    decoded = unquote_to_bytes(text)
    return plain if timed_calls.touch(plain) == 0 else decoded


def _is_locked(backing: bytes) -> bool:
    over = mounted.covering(backing)
    try:
        return over is not None and timed_calls.call(processes.is_locked, backing, over.device)
    except OSError:
        return False


def _whole(mount: Mount) -> Mount:
    """Where all of what `mount` shows a part of is mounted, too (mount --bind); else `mount`."""
    if mount.root == b"/":
        return mount
    others = (one for one in mounted.every() if one.device == mount.device and one.root == b"/")
    return next(others, mount)


def _is_hidden(mount: Mount) -> bool:
    """Whether the backing folder of a mount cannot be reached, as the mount itself covers it."""
    over = mounted.covering(mount.source)
    return over is not None and over.device == mount.device


def _with_state_folder(path: bytes) -> bytes | None:
    """The nearest folder from `path` up in which a mirrorfs has kept something."""
    folder = path
    while True:
        try:
            os.lstat(os.path.join(folder, state_folder.FOLDER, state_folder.FORMAT_FILE))
        except PermissionError:
            if os.path.lexists(os.path.join(folder, state_folder.FOLDER)):
                return folder
        except OSError:
            pass
        else:
            return folder
        if folder == b"/":
            return None
        folder = os.path.dirname(folder)


def _nothing_there(path: bytes, state: bytes | None) -> MirrorfsError:
    if not timed_calls.call(_exists, path):
        return MirrorfsError(f"{show(path)}: no such file or folder")
    if state is not None:
        return NotAMountError(f"{show(path)}: with --state, name the backing folder")
    return NotAMountError(
        f"{show(path)}: neither in a mirrorfs mount nor in a backing folder with a state folder; "
        "if it was mounted with state=DIR, name the backing folder and pass --state DIR"
    )


def _exists(path: bytes) -> bool:
    """Raises OSError where a disk fails."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _below(path: bytes) -> bytes:
    return b"/".join(filter(None, path.split(b"/")))
