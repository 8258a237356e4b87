"""The state folder of a mount: where it is, whether seeds can be used, what a crash has left."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mirrorfs.backing import progress_table, recovery_list, state_folder
from mirrorfs.backing.paths import show
from mirrorfs.cli.output import note
from mirrorfs.daemon.mount_spec import StateFolder
from mirrorfs.errors import BackingError, InUseError, UsageError

if TYPE_CHECKING:
    from mirrorfs.backing.recovery_list import Entry
    from mirrorfs.options import MountOptions

_NAMED = 3
# What a crash has left is finalised before the mount answers, if that takes no longer; what is left
# then is seen to beside the mount, and before its first use.
_PATIENCE_SECONDS = 0.5


def prepare(backing: bytes, backing_fd: int, options: MountOptions) -> StateFolder:
    """Find the state folder, and finalise the files that a crash has left unsettled.

    Raises UsageError, StateError, BackingError or InUseError.
    """
    lock_fd = -1
    default = os.path.join(backing, state_folder.FOLDER)
    folder = default
    if options.state is not None:
        folder = os.path.realpath(os.fsencode(options.state))
        if folder != default and (folder + b"/").startswith(backing + b"/"):
            raise UsageError(
                f"option state: {show(folder)} lies in the backing folder, where tools could "
                "delete it; name a folder elsewhere, or leave the option out"
            )
        if not os.path.isdir(os.path.dirname(folder)):
            raise UsageError(
                f"option state: {show(os.path.dirname(folder))} is no folder; make it first"
            )
        lock_fd = _lock(folder) if folder != default else -1
    kept = StateFolder(folder, lock_fd=lock_fd)
    # An earlier mount may have had the default.
    for place in sorted({folder, default}):
        found = _look_into(backing, backing_fd, place, options.ro, is_used=place == folder)
        if place == folder:
            kept = replace(kept, no_seeds=found.no_seeds, left=found.left)
        kept = replace(
            kept, told=(*kept.told, *found.told), warnings=(*kept.warnings, *found.warnings)
        )
    if options.ro:
        return replace(kept, path=None, no_seeds="mounted read-only")
    if options.basis == "off":
        return replace(kept, path=None, no_seeds="turned off by basis=off")
    if options.unchanged == "write":
        return replace(kept, path=None, no_seeds="turned off by unchanged=write")
    return replace(kept, path=None) if kept.no_seeds else kept


def _lock(folder: bytes) -> int:
    """Make the folder that the user has named, and lock it (flock(2)) against another mount: the
    list in it belongs to one backing folder.
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
) -> StateFolder:
    """See what a state folder holds, if there is one; why it cannot be used, and what a crash has
    left there that is not finalised yet. `is_used` says that it is the one of this mount.
    """
    taken = "the name .mirrorfs is taken in the backing folder; pass -o state=DIR"
    parent, name = os.path.split(folder)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder_fd = state_folder.open_folder(parent_fd, name)
    except FileNotFoundError:
        return StateFolder(None)
    except NotADirectoryError:
        return StateFolder(None, taken)
    except OSError as exc:
        return _refused(folder, exc, is_used)
    finally:
        os.close(parent_fd)
    try:
        is_default = folder == os.path.join(backing, state_folder.FOLDER)
        if is_default and not state_folder.has_marker(folder_fd):
            return StateFolder(None, taken)
        state_folder.check_format(folder_fd, folder)
        left = recovery_list.read_list(folder_fd)
        if left and read_only:
            raise BackingError(
                f"{show(backing)}: a crash has left unsettled ends of files ({len(left)}, the "
                f"first is {show(left[0].path)}); mount it once without 'ro'"
            )
        return StateFolder(None) if read_only else _recover(backing_fd, folder, folder_fd, left)
    except OSError as exc:
        return _refused(folder, exc, is_used)
    finally:
        os.close(folder_fd)


def _refused(folder: bytes, exc: OSError, is_used: bool) -> StateFolder:
    """A folder that is not used may be somebody else's: what a crash has left is known by its mark,
    too.
    """
    if not is_used:
        return StateFolder(None)
    reason = f"the state folder {show(folder)} cannot be used: {exc.strerror}"
    note(f"files get no seeds: {reason}")
    return StateFolder(None, reason, warnings=(f"files get no seeds: {reason}",))


def _recover(backing_fd: int, folder: bytes, folder_fd: int, entries: list[Entry]) -> StateFolder:
    """Finalise what is on a list, as long as that takes no time to speak of."""
    from mirrorfs.mirror.recovery import Outcome, Recovery

    warnings: list[str] = []

    def tell(level: int, text: str) -> None:
        if level > logging.INFO:  # all that was finalised is told in one line
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
    told = (_finalised(done),) if done else ()
    for line in (*told, *warnings):
        note(line)
    return StateFolder(None, left=tuple(left), told=told, warnings=tuple(warnings))


def _finalised(paths: list[bytes]) -> str:
    names = ", ".join(show(path) for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"settled what a crash had left unfinished: {names}{more}"
