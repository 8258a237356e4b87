"""What is known of the files of a place, and what is there now: the catalog beside the disk."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import mounts, state_folder
from mirrorfs.backing.statx import statx
from mirrorfs.catalog import endings, scrubs, sessions
from mirrorfs.catalog.judgement import RUNNING, Found, order
from mirrorfs.catalog.standing import Standing, standing
from mirrorfs.daemon import timed_calls
from mirrorfs.fs import session_end

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from mirrorfs.catalog.session import Session
    from mirrorfs.daemon.remembered import Place


class Sizes(NamedTuple):
    """Of one file or of many, in bytes."""

    size: int
    allocated: int


@dataclass(frozen=True, slots=True)
class Space:
    """The file system of a backing folder, and what its files take there. In bytes."""

    total: int
    free: int  # for those who are not root
    used: int
    files: Sizes
    missing: int  # what the files will take more once they have no holes
    pinned: int | None = None  # used, but by no file; None where that cannot be told

    @property
    def short(self) -> int:
        """How much would be missing if all files filled up; 0 if all fits."""
        return max(0, self.missing - self.free)


@dataclass(frozen=True, slots=True)
class Overview:
    """What is known of a place. `files` are in the order in which they are to be told."""

    place: Place
    is_remembered: bool  # there is a catalog
    files: list[Found]
    space: Space | None  # None where the files cannot be looked at
    unread: int = 0  # folders that could not be looked into
    scrubbed_ns: int | None = None  # when the last complete scrub ended
    now_ns: int = field(default_factory=time.time_ns)


def look(
    place: Place, db: sqlite3.Connection | None, tell: Callable[[int], None] = lambda _: None
) -> Overview:
    """Look at a place; `db` is its catalog. `tell` is called now and then with the number of files
    that were seen so far. Raises OSError, NoAnswerError, and sqlite3.Error.
    """
    disk = _Disk(tell)
    if place.root:
        for mount in mounts.mount_table():
            if (mount.path + b"/").startswith(place.root + b"/"):
                timed_calls.touch(mount.path)
        timed_calls.touch(place.root)
        disk.walk(place.root)
    known = {} if db is None else _known(place, db)
    files = [_as_it_is(one, place.root, disk.files) for one in known.values()]
    own = {one.left_as for one in known.values()}
    files += [
        Found(Standing(path, None, 0, "", *sizes, 0.0, False, "", ""))
        for path, sizes in disk.files.items()
        if path not in known and path not in own and not _is_leftover(path, known)
    ]
    damaged = {} if db is None else _damaged(place, db)
    if damaged:
        files = [_with_damage(one, damaged.get(one.standing.path, 0)) for one in files]
    files.sort(key=order)
    space = _space(place, disk) if place.root else None
    scrubbed_ns = None if db is None else scrubs.last_complete_ns(db)
    return Overview(place, db is not None, files, space, disk.unread, scrubbed_ns)


def _damaged(place: Place, db: sqlite3.Connection) -> dict[bytes, int]:
    """How many chunks are damaged of the files that are there, as far as that can be seen."""
    found: dict[bytes, int] = {}
    for one in scrubs.damage(db):
        if not place.root or _is_same(os.path.join(place.root, one.path), one):
            found[one.path] = one.left_chunks
    return found


def _is_same(path: bytes, damage: scrubs.Damage) -> bool:
    """Whether the file is the one that was found damaged."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return statx(fd).key[1:] == (damage.inode, damage.born_ns)
    finally:
        os.close(fd)


def _with_damage(found: Found, chunks: int) -> Found:
    return found._replace(standing=found.standing._replace(damaged_chunks=chunks))


def _is_leftover(path: bytes, known: Mapping[bytes, Found]) -> bool:
    """Whether a file lies there with a temporary name, left by an earlier try to write one that is
    known: what became of that is said there.
    """
    meant, written_as = endings.meant_for(path)
    return written_as is not None and meant in known


def under_way(place: Place, db: sqlite3.Connection) -> list[Session]:
    """The sessions without an end, the last one first; where no daemon lives, as it left them."""
    found = sessions.under_way(db)[::-1]
    if place.is_served:
        return [_meant(one) for one in found]
    if not found or not place.root:
        return [one.interrupted(0) for one in found]
    fd = os.open(place.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [session_end.cut_off(one, fd) for one in found]
    finally:
        os.close(fd)


def _meant(session: Session) -> Session:
    path, written_as = endings.meant_for(session.path)
    return replace(session, path=path, written_as=written_as)


def _known(place: Place, db: sqlite3.Connection) -> dict[bytes, Found]:
    """The files of the catalog, as that knows them."""
    known: dict[bytes, Found] = {}
    for path, last, good, known_chunks in sessions.files(db):
        one = standing(path, last, good.end_ns if good else None)
        one = one._replace(known_chunks=known_chunks)
        if last.size_after is None and good is not None:
            one = one._replace(size=good.size_after or 0, allocated=good.allocated_after or 0)
        known[path] = Found(one, left_as=last.written_as, is_new=not last.allocated_before)
    for session in reversed(under_way(place, db)):
        before = known[session.path].standing if session.path in known else None
        one = standing(session.path, session, before.good_ns if before else None)
        one = one._replace(known_chunks=before.known_chunks if before else None)
        if before is not None and session.ended is None:
            # It stays what it was until this is over.
            one = before._replace(ending=RUNNING, last_ns=one.last_ns, program=one.program)
        known[session.path] = Found(one, left_as=session.written_as)
    return known


def _as_it_is(found: Found, root: bytes, files: dict[bytes, Sizes]) -> Found:
    """A file that the catalog knows, and what is there of it."""
    one, left_as = found.standing, found.left_as
    if left_as not in files:
        left_as = None
    sizes = files.get(one.path)
    if sizes is not None:
        now = one._replace(size=sizes.size, allocated=sizes.allocated)
        return Found(now, False, left_as, found.is_new)
    was_there = one.good_ns is not None and one.ending != RUNNING and left_as is None
    is_gone = bool(root) and was_there and _is_gone(root, one.path)
    return Found(one, is_gone, left_as, found.is_new)


def _is_gone(root: bytes, path: bytes) -> bool:
    try:
        status = os.lstat(os.path.join(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return not stat.S_ISREG(status.st_mode)


class _Disk:
    """The regular files below a folder, by path. What lies in the state folder, or in another file
    system that is mounted inside, does not count in the sums.
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self.files: dict[bytes, Sizes] = {}
        self.unread = 0
        self.size = self.allocated = self.missing = 0
        self.blocks = 0  # all that inodes take, in bytes
        self._seen: set[tuple[int, int]] = set()  # with several names

    def walk(self, root: bytes) -> None:
        inside = {mount.path for mount in mounts.mount_table()} - {root}
        left: list[tuple[bytes, bool]] = [(b"", False)]
        while left:
            folder, is_foreign = left.pop()
            place = os.path.join(root, folder) if folder else root
            is_foreign = is_foreign or place in inside
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        path = folder + b"/" + entry.name if folder else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            left.append((path, is_foreign))
                        elif entry.is_file(follow_symlinks=False):
                            with contextlib.suppress(FileNotFoundError):  # removed just now
                                self._add(path, entry.stat(follow_symlinks=False), is_foreign)
            except OSError:
                self.unread += 1
            self._tell(len(self.files))

    def _add(self, path: bytes, status: os.stat_result, is_foreign: bool) -> None:
        sizes = Sizes(status.st_size, status.st_blocks * 512)
        is_ours = path.startswith(state_folder.FOLDER + b"/")
        if not is_ours:
            self.files[path] = sizes
        if is_foreign:
            return
        if status.st_nlink > 1:
            key = status.st_dev, status.st_ino
            if key in self._seen:
                return
            self._seen.add(key)
        self.blocks += sizes.allocated
        if not is_ours:
            self.size += sizes.size
            self.allocated += sizes.allocated
            self.missing += max(0, sizes.size - sizes.allocated)


def _space(place: Place, disk: _Disk) -> Space:
    system = os.statvfs(place.root)
    used = (system.f_blocks - system.f_bfree) * system.f_frsize
    return Space(
        system.f_blocks * system.f_frsize,
        system.f_bavail * system.f_frsize,
        used,
        Sizes(disk.size, disk.allocated),
        disk.missing,
        used - disk.blocks if _can_tell_pinned(place, disk) and used > disk.blocks else None,
    )


def _can_tell_pinned(place: Place, disk: _Disk) -> bool:
    """Whether all files of a btrfs are in the backing folder, so that what else is used is known:
    btrfs keeps an extent until none of its blocks is used.
    """
    if disk.unread:
        return False
    over = mounts.mounted_at(place.root)
    return over is not None and over.fs_type == "btrfs" and over.root == b"/"
