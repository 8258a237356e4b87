"""The state folder of a mount: where it is, whether seeds can be used, what a crash has left."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from mirrorfs.backing import unsettled
from mirrorfs.backing.paths import show
from mirrorfs.backing.places import FORMAT_FILE
from mirrorfs.cli.output import note
from mirrorfs.errors import BackingError, InUseError, UsageError
from mirrorfs.mount.job import StateFolder

if TYPE_CHECKING:
    from mirrorfs.options import MountOptions

_NAMED = 3


def prepare(backing: bytes, backing_fd: int, options: MountOptions) -> StateFolder:
    """Find the state folder, and settle the files that a crash has left unsettled.

    Raises UsageError, StateError, BackingError or InUseError.
    """
    lock_fd = -1
    default = os.path.join(backing, unsettled.FOLDER)
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
    elif not _is_ours(folder):
        return StateFolder(
            None, "the name .mirrorfs is taken in the backing folder; pass -o state=DIR"
        )
    # An earlier mount may have had the default.
    for place in sorted({folder, default} if _is_ours(default) else {folder}):
        unsettled.check_format(place)
        _repair(backing, backing_fd, place, options.ro)
    if options.ro:
        return StateFolder(None, "mounted read-only")
    if options.basis == "off":
        return StateFolder(None, "turned off by basis=off")
    if options.unchanged == "write":
        return StateFolder(None, "turned off by unchanged=write")
    return StateFolder(folder, lock_fd=lock_fd)


def _lock(folder: bytes) -> int:
    """Make the folder that the user has named, and lock it (flock(2)) against another mount: the
    list in it belongs to one backing folder.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise UsageError(f"option state: {show(folder)}: {exc.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUseError(
            f"{show(folder)}: is the state folder of another mount; give each its own"
        ) from None
    return fd


def _is_ours(folder: bytes) -> bool:
    """Whether there is no such folder yet, or one with our marker file."""
    return not os.path.lexists(folder) or os.path.lexists(os.path.join(folder, FORMAT_FILE))


def _repair(backing: bytes, backing_fd: int, folder: bytes, read_only: bool) -> None:
    from mirrorfs.mirror.repair import repair

    try:
        left = unsettled.read_list(folder)
        if left and read_only:
            raise BackingError(
                f"{show(backing)}: a crash has left unsettled ends of files ({len(left)}, the "
                f"first is {show(left[0].path)}); mount it once without 'ro'"
            )
        settled = [] if read_only else repair(backing_fd, folder)
    except OSError as exc:
        raise BackingError(
            f"{show(backing)}: a file that a crash has left cannot be settled: {exc.strerror}; "
            f"see the list {show(os.path.join(folder, unsettled.LIST))}"
        ) from None
    if settled:
        names = ", ".join(show(path) for path in settled[:_NAMED])
        more = f" and {len(settled) - _NAMED} more" if len(settled) > _NAMED else ""
        note(f"settled what a crash had left unfinished: {names}{more}")
