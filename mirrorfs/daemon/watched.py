"""Mounts that are asked again and again how they are, none of which holds up another.

Each request is sent at once by a child process, and its answer is taken when it has come
(`timed_calls`). Of a mount that does not answer, one request of each kind stays under way: its
answer says that the mount goes on.
"""

from __future__ import annotations

import errno
import json
import os
import select
import time
from typing import TYPE_CHECKING, Any

from mirrorfs.daemon import health, mounted
from mirrorfs.daemon.rates import FilesReading, Moved, Rates, Reading, busiest, of_mount
from mirrorfs.daemon.timed_calls import TimedCall
from mirrorfs.errors import MirrorfsError, NotAMountError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.backing.mounts import Mount

# So often a mount is to be found late.
LOOK_SECONDS = 0.1
# So long an answer may take until the mount is said not to answer.
LATE_SECONDS = 3.0
_SPACE_SECONDS = 5.0
# With many files their list takes the daemon long; it shall do other work most of the time.
_FILES_PAUSES = 10
_FILES_MAX_BYTES = 64 << 20
_REST_SECONDS = 1.0
_ACCOUNT, _SPACE, _FILES = "account", "space", "files"


class Watched:
    """One mount. `account` are the last two readings, the older one first, None where there is none
    yet; `problem` says why the mount gives no account now. `busy_files` are those that were written
    or read lately, the busiest first, None where that is not known (yet); `files_problem` says why
    it will not be known.
    """

    def __init__(self, mount: Mount, with_files: bool) -> None:
        self.mount = mount
        self.account: tuple[Reading | None, Reading | None] = (None, None)
        self.free_bytes: int | None = None
        self.problem: MirrorfsError | None = None
        self.busy_files: list[tuple[str, Rates]] | None = None
        self.files_problem = ""
        self._files: FilesReading | None = None
        self._with_files = with_files
        self._under_way: dict[str, tuple[TimedCall[Any], float]] = {}
        self._due = {_SPACE: 0.0, _FILES: 0.0}

    def ask(self) -> None:
        """Send the requests that are due; the list of files is asked for with the answer."""
        now = time.monotonic()
        if _ACCOUNT not in self._under_way:
            self._send(_ACCOUNT, os.getxattr, self.mount.path, mounted.STATS_ATTRIBUTE)
        if _SPACE not in self._under_way and now >= self._due[_SPACE]:
            self._due[_SPACE] = now + _SPACE_SECONDS
            self._send(_SPACE, _free_bytes, self.mount.path)

    def rates(self) -> Rates | None:
        """What the mount does a second; None where that is not known."""
        return None if self.problem else of_mount(*self.account)

    def has_news(self) -> bool:
        """Whether there is nothing to wait for, and something to tell: rates, or a problem."""
        return self.is_settled() and (self.problem is not None or self.account[0] is not None)

    def under_way(self) -> list[TimedCall[Any]]:
        """The requests that are not answered."""
        return [call for call, _ in self._under_way.values()]

    def is_settled(self) -> bool:
        """Whether there is nothing to wait for: all is answered, or late."""
        late = time.monotonic() - LATE_SECONDS
        return all(asked <= late for _, asked in self._under_way.values())

    def take(self, ready: Iterable[int]) -> bool:
        """Take the answers of the requests that have one of these descriptors, and notice when one
        is late. Returns whether anything is new.
        """
        is_new = False
        for kind, (call, asked) in list(self._under_way.items()):
            if call.fileno() in ready:
                del self._under_way[kind]
                self._take(kind, call, asked)
                is_new = True
        call_and_time = self._under_way.get(_ACCOUNT)
        is_late = call_and_time and time.monotonic() - call_and_time[1] >= LATE_SECONDS
        if is_late and self.problem is None:
            self.problem = health.hanging(self.mount)
            is_new = True
        return is_new

    def abandon(self) -> None:
        """Want no answer any more."""
        for call, _ in self._under_way.values():
            call.abandon()
        self._under_way.clear()

    def _send(self, kind: str, function: Any, *arguments: object) -> None:  # noqa: ANN401
        self._under_way[kind] = (TimedCall(function, *arguments), time.monotonic())

    def _take(self, kind: str, call: TimedCall[Any], asked: float) -> None:
        try:
            answer = call.answer(time.monotonic() + _REST_SECONDS)
            if kind == _ACCOUNT:
                self._take_account(answer)
            elif kind == _SPACE:
                self.free_bytes = answer
            else:
                self._take_files(answer, asked)
        except TimeoutError:
            pass  # the child process was ended from outside; the request is sent again
        except OSError as exc:
            # A signal to all processes of a terminal interrupts calls, and says nothing of a mount.
            if exc.errno != errno.EINTR:
                self._refuse(kind, exc)
        except MirrorfsError as exc:
            self._fail(exc)

    def _take_account(self, answer: bytes) -> None:
        stats = mounted.parsed(self.mount.path, answer)
        try:
            counters = stats["counters"]
            reading = Reading(
                time.monotonic(),
                (int(stats["pid"]), float(stats["mounted_at"])),
                Moved.parse(counters),
                {str(name): int(count) for name, count in counters["errors"].items()},
            )
            control = stats.get("control", "")
        except (LookupError, TypeError, ValueError, AttributeError):
            raise mounted.unreadable(self.mount.path) from None
        self.problem = None
        self.account = (self.account[1], reading)
        if not self._with_files:
            return
        if not isinstance(control, str) or control in {"", ".", ".."} or "/" in control:
            self.files_problem = "the files of this version's mounts cannot be listed"
        elif _FILES not in self._under_way and time.monotonic() >= self._due[_FILES]:
            path = os.path.join(self.mount.path, os.fsencode(control), b"files.json")
            self._send(_FILES, _content, path)

    def _take_files(self, answer: bytes, asked: float) -> None:
        now = time.monotonic()
        self._due[_FILES] = now + (now - asked) * _FILES_PAUSES
        try:
            found = json.loads(answer)["files"].items()
            files = {str(name): Moved.parse(counters) for name, counters in found}
        except (LookupError, TypeError, ValueError, AttributeError):
            self.files_problem = "the list of files cannot be read"
            return
        self.files_problem = ""
        before, self._files = self._files, FilesReading(now, files)
        if before is not None:
            self.busy_files = busiest(before, self._files)

    def _refuse(self, kind: str, exc: OSError) -> None:
        if kind == _ACCOUNT:
            self._fail(mounted.explained(self.mount, self.mount.path, exc))
        elif kind == _SPACE:
            self.free_bytes = None
        else:
            self._files = self.busy_files = None
            is_private = exc.errno in {errno.EACCES, errno.EPERM}
            self.files_problem = (
                "only the user who mounted it, or root, may see its files"
                if is_private
                else f"no list of files: {exc.strerror}"
            )

    def _fail(self, problem: MirrorfsError) -> None:
        self.problem = problem
        self.account = (None, None)
        self._files = self.busy_files = None
        self.free_bytes = None


class Watch:
    """The mounts at `points`, or all there are if that is empty; `with_files` asks for their files,
    too. To be closed.
    """

    def __init__(self, points: Iterable[bytes], with_files: bool) -> None:
        self._points = frozenset(points)
        self._with_files = with_files
        self._watched: dict[Mount, Watched] = {}
        self.look()

    def look(self) -> list[Watched]:
        """Look at the mount table, and return the mounts that are there now, by path: what has gone
        is left, and what has come is begun with.
        """
        there = [one for one in mounted.every() if not self._points or one.path in self._points]
        for mount in self._watched.keys() - set(there):
            self._watched.pop(mount).abandon()
        self._watched = {
            mount: self._watched.get(mount) or Watched(mount, self._with_files) for mount in there
        }
        return list(self._watched.values())

    def ask_all(self) -> list[Watched]:
        """Begin an interval: look at the mount table, and ask all mounts. NotAMountError if there
        is none any more.
        """
        there = self.look()
        if not there:
            raise NotAMountError("no mirrorfs is mounted here any more")
        for one in there:
            one.ask()
        return there

    def wait(self, seconds: float, also: Iterable[int] = ()) -> tuple[set[Watched], set[int]]:
        """Wait for an answer, or until one of the descriptors `also` can be read, but no longer
        than `seconds`. Returns the mounts of which something is new, and those descriptors.
        """
        poll = select.poll()
        for fd in also:
            poll.register(fd, select.POLLIN)
        for watched in self._watched.values():
            for call in watched.under_way():
                poll.register(call, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
        new = {watched for watched in self._watched.values() if watched.take(ready)}
        return new, ready & set(also)

    def close(self) -> None:
        """Want no answer any more."""
        for watched in self._watched.values():
            watched.abandon()
        self._watched.clear()


def _free_bytes(path: bytes) -> int:
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize


def _content(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read(_FILES_MAX_BYTES)
