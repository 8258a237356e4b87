"""What a scrub works on: a backing folder, its digest files, and whether a daemon serves it.

A session that began without a digest file makes none before its end, and could not be known by
one. So a scrub makes a new digest file only where no session can be under way (`Guard`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirrorfs.backing import state_folder
from mirrorfs.backing.digest_file import Folder, Identity
from mirrorfs.backing.paths import show
from mirrorfs.backing.statx import statx
from mirrorfs.daemon import mounted, processes, timed_calls
from mirrorfs.errors import BackingError, InUseError, MirrorfsError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrorfs.backing.statx import Status
    from mirrorfs.daemon.remembered import Place

# A session ends within a second after it has been quiet.
_MARGIN_SECONDS = 2.0
# Of a daemon that does not answer nothing is known.
_FOREVER_SECONDS = 1e9
_CONFIG_BYTES = 1 << 20
_ACCESS_MODE = 3  # O_ACCMODE


@dataclass(frozen=True, slots=True)
class ScrubPlace:
    """What is scrubbed. `state_folder` is a path, of which `state_fd` is open; `is_served` says
    that a daemon may have sessions under way, or is about to note what they did.
    """

    place: Place
    root_fd: int
    root_device: int
    state_folder: bytes
    state_fd: int
    folder: Folder
    guard: Guard

    def identity(self, status: Status) -> Identity:
        """The identity of a backing file with this status."""
        device, inode, born_ns = status.key
        return Identity(0 if device == self.root_device else device, inode, born_ns)


@contextlib.contextmanager
def opened(place: Place) -> Iterator[ScrubPlace]:
    """Open what a scrub needs, and let no other scrub begin meanwhile. Raises MirrorfsError."""
    if place.is_hidden:
        raise BackingError(
            f"{show(place.name)}: the backing folder is mounted over itself, which hides "
            "it; unmount it first"
        )
    timed_calls.touch(place.backing)
    folder, quiet = place.state_folder, 0.0
    is_served = place.is_served
    if is_served and place.trouble:
        quiet = _FOREVER_SECONDS
    if place.mount is not None and is_served and not place.trouble:
        options = _options(place)
        if options.get("digests") == "off":
            raise BackingError(
                f"{show(place.name)}: is mounted with digests=off, so that none can be kept; "
                "unmount it first, or mount it with digests=on"
            )
        is_served = not options.get("ro")
        told = options.get("state")
        if not place.is_noted and isinstance(told, str) and told:
            folder = os.fsencode(told)
        quiet = float(options.get("session_quiet", 0))
    with contextlib.ExitStack() as stack:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        root_fd = os.open(place.backing, flags)
        stack.callback(os.close, root_fd)
        state_fd = _open_state(folder)
        stack.callback(os.close, state_fd)
        try:
            digests = Folder(state_fd)
        except OSError as exc:
            raise StateError(f"{show(folder)}/digests: {exc.strerror}") from None
        stack.callback(digests.close)
        try:
            fcntl.flock(digests.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{show(place.name)}: another scrub is under way") from None
        guard = Guard(place, is_served, quiet)
        device = statx(root_fd).dev
        yield ScrubPlace(place, root_fd, device, folder, state_fd, digests, guard)


def _open_state(folder: bytes) -> int:
    parent, name = os.path.split(folder)
    try:
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd, _ = state_folder.open_or_make(parent_fd, name)
        finally:
            os.close(parent_fd)
    except OSError as exc:
        raise StateError(
            f"{show(folder)}: the state folder cannot be used: {exc.strerror}; "
            "run this as its owner, and with --state DIR if it was mounted with state=DIR"
        ) from None
    state_folder.check_format(fd, folder)
    return fd


def _options(place: Place) -> dict[str, Any]:
    """The options of a mount, as far as they can be read."""
    if place.mount is None:
        return {}
    control = mounted.Statistics(place.mount).read().get("control")
    if not isinstance(control, str) or control in {"", ".", ".."} or "/" in control:
        return {}
    path = os.path.join(place.mount.path, os.fsencode(control), b"config.json")
    try:
        found = json.loads(timed_calls.call(_content, path))["options"]
        return {name: one["value"] for name, one in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise MirrorfsError(
            f"{show(path)}: cannot be read; run this as the user who mounted it, or as root"
        ) from None


def _content(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read(_CONFIG_BYTES)


class Guard:
    """Knows of which files no session can be under way, where a daemon serves them. One that has
    written a file has it open, or has had it within `quiet_seconds`, or has changed it since.
    """

    def __init__(self, place: Place, is_served: bool, quiet_seconds: float) -> None:
        self._place = place
        self.is_served = is_served
        self._span = quiet_seconds + _MARGIN_SECONDS
        self._begin, self._begin_ns = time.monotonic(), time.time_ns()
        self._pid = self._daemon() if is_served else None
        self._written = self._open_files() if is_served else set()

    def _daemon(self) -> int | None:
        if self._place.mount is not None:
            return processes.daemon_of(self._place.mount)
        return processes.lock_holder(self._place.backing)

    def wait_seconds(self, status: Status) -> float:
        """How long to wait until `is_quiet` can hold of a file; 0 if that is of no use."""
        if not self.is_served or self._written is None or not self._is_old(status):
            return 0.0
        return max(0.0, self._begin + self._span - time.monotonic())

    def is_quiet(self, status: Status) -> bool:
        """Whether no session of a file with this status can be under way, to be asked after
        `wait_seconds`.
        """
        if not self.is_served:
            return not self._is_locked()  # a mount may have come since
        if self._written is None or not self._is_old(status):
            return False
        now = self._open_files()
        key = status.dev, status.ino
        return now is not None and key not in self._written and key not in now

    def _is_old(self, status: Status) -> bool:
        """Whether a file was changed before all this, so that only an older session can be."""
        return max(status.mtime_ns, status.ctime_ns) < self._begin_ns - int(self._span * 1e9)

    def _is_locked(self) -> bool:
        over = mounted.covering(self._place.backing)
        if over is None or self._place.is_served:
            return False
        try:
            return processes.is_locked(self._place.backing, over.device)
        except OSError:
            return True

    def _open_files(self) -> set[tuple[int, int]] | None:
        """Device and inode number of what the daemon has open for writing; None if it cannot be
        looked at.
        """
        if self._pid is None:
            return None
        found: set[tuple[int, int]] = set()
        process = Path(f"/proc/{self._pid}")
        try:
            for name in os.listdir(process / "fd"):
                with contextlib.suppress(FileNotFoundError):  # it was closed just now
                    if _is_for_writing((process / "fdinfo" / name).read_text()):
                        status = os.stat(process / "fd" / name)
                        found.add((status.st_dev, status.st_ino))
        except OSError:
            return None
        return found


def _is_for_writing(text: str) -> bool:
    _, _, rest = text.partition("flags:")
    words = rest.split(maxsplit=1)
    flags = int(words[0], 8) if words else 0
    return bool(flags & _ACCESS_MODE) and not flags & os.O_PATH
