"""Log setup: lines go to stderr in the foreground, to a file, or to syslog (which systemd-journald
reads). Each line names its mount, since several mounts may write to one place. Where stderr leads
to systemd-journald, each line begins with its priority (sd-daemon(3)).
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import stat
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import show
from mirrorfs.errors import UsageError

if TYPE_CHECKING:
    from io import TextIOWrapper

_SYSLOG_SOCKET = "/dev/log"
# As syslog(3) has them.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY = 7


class _Formatter(logging.Formatter):
    """Times as ISO 8601, with the zone. Of a record of several lines, each begins with `head`, a
    template of logging, and the mount point.
    """

    def __init__(self, head: str, mount_point: bytes) -> None:
        super().__init__()
        self._head = f"{head}{show(mount_point).replace('%', '%%')}: "

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).splitlines()
        record.priority = next(
            (number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY
        )
        record.asctime = self.formatTime(record)
        head = self._head % vars(record)
        return "\n".join(head + line for line in lines)

    def formatTime(self, record: logging.LogRecord, _datefmt: str | None = None) -> str:
        when = datetime.fromtimestamp(record.created).astimezone()
        return when.isoformat(timespec="milliseconds")


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log file that is made anew when it was moved away (logrotate(8)), with the permissions that
    it had: a daemon has no umask by then.
    """

    _permissions = 0o666  # of the first one, less the umask of the command

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            fd = os.open(path, flags, self._permissions)
            self._permissions = stat.S_IMODE(os.fstat(fd).st_mode)
            return fd

        path, errors = self.baseFilename, self.errors
        return open(path, "a", encoding=self.encoding, errors=errors, opener=opener)


def set_up(log_file: str | None, mount_point: bytes, foreground: bool, debug: bool) -> str | None:
    """Configure logging for the mount at `mount_point`; returns a note for the user if messages
    will be lost. `debug` includes each refused request.

    Raises UsageError if the file cannot be opened.
    """
    note = None
    handler: logging.Handler
    head = "%(asctime)s %(levelname)s "
    if log_file is not None:
        try:
            handler = _LogFile(
                Path(log_file).absolute(), encoding="utf-8", errors="backslashreplace"
            )
        except OSError as exc:
            raise UsageError(
                f"option log: {log_file} cannot be opened: {exc.strerror}; "
                "name a file in a folder that is there and may be written"
            ) from None
    elif foreground:
        handler = logging.StreamHandler(sys.stderr)
        head = "<%(priority)d>" if _is_journal() else "mirrorfs: "
    elif Path(_SYSLOG_SOCKET).exists():
        handler = logging.handlers.SysLogHandler(
            _SYSLOG_SOCKET, facility=logging.handlers.SysLogHandler.LOG_DAEMON
        )
        handler.ident = "mirrorfs: "
        head = "%(levelname)s "
    else:
        handler = logging.NullHandler()
        note = "no syslog here, so messages are lost; pass -o log=FILE to keep them"
    handler.setFormatter(_Formatter(head, mount_point))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    pyfuse3 = logging.getLogger("pyfuse3")
    pyfuse3.addFilter(_is_news)
    pyfuse3.setLevel(logging.INFO)  # its lines of DEBUG are about its own tasks
    logging.raiseExceptions = False
    return note


def _is_journal() -> bool:
    """Whether stderr is what systemd-journald has given this process (JOURNAL_STREAM of
    systemd.exec(5)).
    """
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def destination() -> str:
    """Where log lines go, for config.json: the path of a file, `stderr`, `syslog` or `nowhere`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            return handler.baseFilename
        if isinstance(handler, logging.StreamHandler):
            return "stderr"
        if isinstance(handler, logging.handlers.SysLogHandler):
            return "syslog"
    return "nowhere"


def descriptors() -> set[int]:
    """The descriptors by which log lines are written, which a daemon keeps open."""
    found = set()
    for handler in logging.getLogger().handlers:
        for name in ("stream", "socket"):
            owner = getattr(handler, name, None)
            if owner is not None:
                found.add(owner.fileno())
    return found


def _is_news(record: logging.LogRecord) -> bool:
    """False for the lines about answers to requests that the kernel has given up meanwhile, after
    a signal to the client or an unmount.
    """
    message = record.getMessage()
    return not ("fuse_reply_* failed" in message and "No such file" in message)
