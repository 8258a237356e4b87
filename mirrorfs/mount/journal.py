"""Where log lines go: stderr in the foreground, a file, or syslog (which the journal reads, where
it runs).
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path

from mirrorfs.errors import UsageError

_SYSLOG_SOCKET = "/dev/log"


def set_up(log_file: str | None, foreground: bool, debug: bool) -> str | None:
    """Configure logging; returns a note for the user if messages will be lost. UsageError if the
    file is refused.
    """
    note = None
    handler: logging.Handler
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    if log_file is not None:
        try:
            handler = logging.FileHandler(
                Path(log_file).absolute(), encoding="utf-8", errors="backslashreplace"
            )
        except OSError as exc:
            raise UsageError(f"option log: {log_file}: {exc.strerror}") from None
    elif foreground:
        handler = logging.StreamHandler(sys.stderr)
        form = "mirrorfs: %(message)s"
    elif Path(_SYSLOG_SOCKET).exists():
        handler = logging.handlers.SysLogHandler(
            _SYSLOG_SOCKET, facility=logging.handlers.SysLogHandler.LOG_DAEMON
        )
        handler.ident = "mirrorfs: "
        form = "%(levelname)s %(message)s"
    else:
        handler = logging.NullHandler()
        note = "no syslog here, so messages are lost; pass -o log=FILE to keep them"
    handler.setFormatter(logging.Formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("pyfuse3").addFilter(_is_news)
    logging.raiseExceptions = False
    return note


def descriptors() -> set[int]:
    """What the log is written to, which a daemon keeps open."""
    found = set()
    for handler in logging.getLogger().handlers:
        for name in ("stream", "socket"):
            owner = getattr(handler, name, None)
            if owner is not None:
                found.add(owner.fileno())
    return found


def _is_news(record: logging.LogRecord) -> bool:
    """False for answers to requests that were given up meanwhile, by a signal or an unmount."""
    message = record.getMessage()
    return not ("fuse_reply_* failed" in message and "No such file" in message)
