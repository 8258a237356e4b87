"""What a service manager is told (sd_notify(3)): a datagram of lines to the socket NOTIFY_SOCKET.

Guarantees: nothing here can fail the mount, nor delay it, but by `_SEND_SECONDS` at its begin and
end. The variables are taken out of the environment, so that no child process speaks for the daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from mirrorfs.backing.sizes import share
from mirrorfs.daemon.health import DEAD
from mirrorfs.daemon.mounted import STATS_ATTRIBUTE
from mirrorfs.fs.session_log import summary

if TYPE_CHECKING:
    from types import TracebackType

    from mirrorfs.catalog.session import Session

_SEND_SECONDS = 2.0
_BEAT_SECONDS = 10.0
_EXTENSION_SECONDS = 60.0
# So long may an end take without anything read or written, as an fsync of much may.
_STALLED_SECONDS = 300.0
_LEAST_BYTES = 1 << 16  # in one beat; the beat itself reads a little


class Notifier:
    """Speaks to the socket at `address`, as NOTIFY_SOCKET spells it; to nobody if that is empty.
    `watchdog_seconds` is within which time the manager wants to hear that all is well; 0: never.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds if address else 0.0
        self._end = threading.Event()
        self._beats: threading.Thread | None = None

    def tell(self, *lines: str, seconds: float = 0.0) -> None:
        """Send lines, within so many seconds if the manager is slow; where they cannot be sent,
        nothing happens.
        """
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.settimeout(seconds)
            sock.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)

    def ready(self) -> None:
        """The mount answers."""
        self.tell("READY=1", "STATUS=serving; no session yet", seconds=_SEND_SECONDS)

    def session(self, session: Session) -> None:
        """A session is over."""
        received, written = session.counters.received_bytes, session.counters.written_bytes
        saved = f"; {share(max(0, received - written) / received)} not written" if received else ""
        self.tell(f"STATUS=last session: {summary(session)}{saved}")

    def stopping(self) -> None:
        """The mount is leaving the tree."""
        self.tell("STOPPING=1", "STATUS=ending: finishing what is open", seconds=_SEND_SECONDS)

    def __enter__(self) -> None:
        """From now until the end of the block, ask for more time, as long as something is done."""
        if self._address:
            self._beats = threading.Thread(target=self._extend, name="notify", daemon=True)
            self._beats.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        if self._beats is not None:
            self._beats.join(_SEND_SECONDS)

    def _extend(self) -> None:
        done, moved = _moved_bytes(), time.monotonic()
        while True:
            self.tell(f"EXTEND_TIMEOUT_USEC={_EXTENSION_SECONDS * 1e6:.0f}")
            if self._end.wait(_BEAT_SECONDS):
                return
            now = _moved_bytes()
            if now - done >= _LEAST_BYTES:
                moved = time.monotonic()
            elif time.monotonic() - moved > _STALLED_SECONDS:
                return
            done = now

    async def watch(self, mount_point: bytes) -> None:
        """Tell that all is well, as long as the mount answers. Its answer comes from memory, so
        that a disk below that stalls is no reason to end it.
        """
        while self._watchdog_seconds:
            with trio.move_on_after(self._watchdog_seconds):
                if await trio.to_thread.run_sync(_answers, mount_point, abandon_on_cancel=True):
                    self.tell("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / 3)


def from_environment() -> Notifier:
    """Who is to be told, by the environment of a process that a service manager has started."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    usec = os.environ.pop("WATCHDOG_USEC", "")
    pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
    is_watched = usec.isdecimal() and pid == str(os.getpid())
    return Notifier(address, int(usec) / 1e6 if is_watched else 0.0)


def _answers(mount_point: bytes) -> bool:
    """Whether the daemon answers. What was unmounted, or covered by another, is as good."""
    try:
        os.getxattr(mount_point, STATS_ATTRIBUTE)
    except OSError as exc:
        return exc.errno not in DEAD | {errno.ETIMEDOUT}
    return True


def _moved_bytes() -> int:
    """How much this process has read and written so far (/proc/self/io of proc(5))."""
    with contextlib.suppress(OSError, ValueError):
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"]) + int(fields["wchar"]) + int(fields["write_bytes"])
    return 0
