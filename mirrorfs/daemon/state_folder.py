"""The state folder of a mount: where it is, whether seeds can be used, what a crash has left.

Guarantees: a folder that the user has named is locked against other mounts. Of what a crash has
left on the recovery lists, as much is finalised as takes no time to speak of; the rest is handed
on. A crash in here leaves files that are finalised, or still on their list.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table, recovery_list, state_folder
from mirrorfs.backing.paths import show
from mirrorfs.daemon.mount_spec import StateFolder
from mirrorfs.errors import BackingError, InUseError, UsageError

if TYPE_CHECKING:
    from mirrorfs.backing.recovery_list import Entry
    from mirrorfs.options import MountOptions

_NAMED = 3
# What a crash has left is finalised before the mount answers, if that takes no longer; the rest is
# finalised beside the mount, and each file before its first use.
_PATIENCE_SECONDS = 0.5
_NAME_IS_TAKEN = "the name .mirrorfs is taken in the backing folder; pass -o state=DIR"


@dataclass(frozen=True, slots=True)
class _Found:
    """What one state folder holds: why it cannot be used (empty if it can), the entries of its
    recovery list that are not finalised yet, and what the user should know.
    """

    no_seeds: str = ""
    left: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def prepare(backing: bytes, backing_fd: int, options: MountOptions) -> StateFolder:
    """Find the state folder of the backing folder `backing`, whose real descriptor is `backing_fd`,
    and finalise files that a crash has left with a stale tail.

    Raises UsageError or InUseError for a folder that the user has named, StateError for one that is
    damaged or newer, and BackingError where files cannot be finalised on a read-only mount.
    """
    default = os.path.join(backing, state_folder.FOLDER)
    used = _named_folder(backing, options.state) if options.state is not None else default
    lock_fd = _lock(used) if used != default else -1
    # An earlier mount may have had the default.
    found = {
        folder: _look_into(backing, backing_fd, folder, options.ro, is_used=folder == used)
        for folder in sorted({used, default})
    }
    no_seeds = _turned_off(options) or found[used].no_seeds
    return StateFolder(
        path=None if no_seeds else used,
        no_seeds=no_seeds,
        catalog_folder=None if options.ro or found[used].no_seeds else used,
        lock_fd=lock_fd,
        left=found[used].left,
        notes=tuple(note for one in found.values() for note in one.notes),
        warnings=tuple(warning for one in found.values() for warning in one.warnings),
    )


def _turned_off(options: MountOptions) -> str:
    """Which option leaves files without seeds; empty if none does."""
    if options.ro:
        return "mounted read-only"
    if options.basis == "off":
        return "turned off by basis=off"
    if options.unchanged == "write":
        return "turned off by unchanged=write"
    return ""


def _named_folder(backing: bytes, state: str) -> bytes:
    """The path of the folder that the user has named; UsageError if it cannot be used."""
    folder = os.path.realpath(os.fsencode(state))
    is_default = folder == os.path.join(backing, state_folder.FOLDER)
    if not is_default and (folder + b"/").startswith(backing + b"/"):
        raise UsageError(
            f"option state: {show(folder)} lies in the backing folder, where tools could "
            "delete it; name a folder elsewhere, or leave the option out"
        )
    if not os.path.isdir(os.path.dirname(folder)):
        raise UsageError(
            f"option state: {show(os.path.dirname(folder))} is no folder; make it first"
        )
    return folder


def _lock(folder: bytes) -> int:
    """Make the folder that the user has named, and lock it (flock(2)) against another mount: the
    recovery list in it belongs to one backing folder. Returns the descriptor that holds the lock.
    """
    parent, name = os.path.split(folder)
    try:
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent_fd)
            fd = state_folder.open_folder(parent_fd, name)
        finally:
            os.close(parent_fd)
    except OSError as exc:
        raise UsageError(f"option state: {show(folder)}: {exc.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUseError(
            f"{show(folder)}: is the state folder of another mount; give each its own"
        ) from None
    return fd


def _look_into(
    backing: bytes, backing_fd: int, folder: bytes, read_only: bool, is_used: bool
) -> _Found:
    """See what the state folder `folder` holds, if there is one, and finalise what a crash has left
    on its list. `is_used` says that it is the one of this mount.
    """
    parent, name = os.path.split(folder)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder_fd = state_folder.open_folder(parent_fd, name)
    except FileNotFoundError:
        return _Found()
    except NotADirectoryError:
        return _Found(_NAME_IS_TAKEN)
    except OSError as exc:
        return _refused(folder, exc, is_used)
    finally:
        os.close(parent_fd)
    try:
        is_default = folder == os.path.join(backing, state_folder.FOLDER)
        if is_default and not state_folder.has_marker(folder_fd):
            return _Found(_NAME_IS_TAKEN)
        state_folder.check_format(folder_fd, folder)
        left = recovery_list.read_list(folder_fd)
        if left and read_only:
            raise BackingError(
                f"{show(backing)}: a crash has left files unfinished ({len(left)}, the first is "
                f"{show(left[0].path)}); mount it once without 'ro'"
            )
        return _Found() if read_only else _recover(backing_fd, folder, folder_fd, left)
    except OSError as exc:
        return _refused(folder, exc, is_used)
    finally:
        os.close(folder_fd)


def _refused(folder: bytes, exc: OSError, is_used: bool) -> _Found:
    """A folder that cannot be read. One that is not used may belong to another user: nothing is
    lost then, since the recovery attribute, too, tells what a crash has left.
    """
    if not is_used:
        return _Found()
    reason = f"the state folder {show(folder)} cannot be used: {exc.strerror}"
    return _Found(reason, warnings=(f"files get no seeds: {reason}",))


def _recover(backing_fd: int, folder: bytes, folder_fd: int, entries: list[Entry]) -> _Found:
    """Finalise the files on a recovery list, as long as `_PATIENCE_SECONDS` last."""
    from mirrorfs.mirror.recovery import Outcome, Recovery

    warnings: list[str] = []

    def tell(level: int, text: str) -> None:
        if level > logging.INFO:  # one line names all that was finalised
            warnings.append(text)

    known = recovery_list.RecoveryList(folder, entries)
    recovery = Recovery(backing_fd, known, is_writable=True, tell=tell)
    end = time.monotonic() + _PATIENCE_SECONDS
    left: list[Entry] = []
    done: list[bytes] = []
    for entry in entries:
        if time.monotonic() > end:
            left.append(entry)
            continue
        try:
            if recovery.finish(entry) is Outcome.FINALISED:
                done.append(entry.path)
        except OSError:
            left.append(entry)
    known.close()
    if not left:
        # Also of a last line that is cut off, to which the next one would be added.
        recovery_list.clear(folder_fd)
        progress_table.remove_all(progress_table.owner_of(folder))
    return _Found(
        left=tuple(left), notes=(_finalised(done),) if done else (), warnings=tuple(warnings)
    )


def _finalised(paths: list[bytes]) -> str:
    names = ", ".join(show(path) for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"finalised what a crash had left unfinished: {names}{more}"
