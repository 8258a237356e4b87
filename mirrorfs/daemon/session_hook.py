"""The user's command after each session (`on_session=COMMAND`): run by a thread of its own, as a
user without privileges, with the session as JSON on its standard input.

Guarantees: it can neither delay nor fail a copy, nor the recorder. A command that takes too long is
killed with all its children; when too many sessions wait, the further ones are dropped, and the log
says how many.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import queue
import selectors
import shlex
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, printable
from mirrorfs.errors import UsageError

if TYPE_CHECKING:
    from mirrorfs.catalog.session import Session
    from mirrorfs.options import MountOptions

log = logging.getLogger(__name__)

_SECONDS = 10.0
_CLOSE_SECONDS = 15.0
_MAX_WAITING = 1000
_MAX_SHOWN = 200
_MAX_SAID_BYTES = 4096
_POLL_SECONDS = 0.05
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Hook:
    """A command by its words, and whom it runs as; `ids` is None for the daemon's own user."""

    words: list[str]
    ids: tuple[int, int] | None
    home: str


def prepare(options: MountOptions) -> Hook | None:
    """The command of a mount; None if there is none. Raises UsageError where it cannot be run."""
    if options.on_session is None:
        return None
    shown = printable(options.on_session)
    if not options.history_days:
        raise UsageError("option on_session: with history=0 there are no sessions")
    try:
        words = shlex.split(options.on_session)
    except ValueError as exc:
        raise UsageError(f"option on_session: '{shown}': {exc}") from None
    if not words or not os.path.isabs(words[0]):
        raise UsageError(f"option on_session: '{shown}' must begin with the path of a program")
    if not os.access(words[0], os.X_OK) or os.path.isdir(words[0]):
        raise UsageError(f"option on_session: {printable(words[0])} is no program that can be run")
    if os.geteuid() != 0:
        return Hook(words, None, os.path.expanduser("~"))
    try:
        user = pwd.getpwnam(options.on_session_user)
    except KeyError:
        name = printable(options.on_session_user)
        raise UsageError(f"option on_session_user: there is no user '{name}'") from None
    return Hook(words, (user.pw_uid, user.pw_gid), user.pw_dir)


class SessionHook:
    """Runs `hook` after each session of the mount of `backing` on `mount_point`."""

    def __init__(self, hook: Hook, mount_point: bytes, backing: bytes) -> None:
        self._hook = hook
        self._mount = {"mount_point": path_text(mount_point), "backing": path_text(backing)}
        self._waiting: queue.Queue[Session | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        self._failed = ""
        self._thread = threading.Thread(target=self._run, name="on_session", daemon=True)

    def start(self) -> None:
        """Begin to wait for sessions."""
        self._thread.start()

    def put(self, session: Session) -> None:
        """Let the command have a session; never waits."""
        try:
            self._waiting.put_nowait(session)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Let the command have the sessions that are left, as long as `_CLOSE_SECONDS` last."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)
        left = self._dropped + self._waiting.qsize()
        if left:
            log.warning("on_session was not run for %d sessions: it takes too long", left)

    def _run(self) -> None:
        while (session := self._waiting.get()) is not None:
            try:
                trouble = self._call(session)
            except OSError as exc:
                trouble = f"{exc.strerror}"
            if trouble and trouble != self._failed:
                log.warning("on_session=%s: %s", shlex.join(self._hook.words), trouble)
            self._failed = trouble

    def _call(self, session: Session) -> str:
        """Run the command; returns what went wrong."""
        text = json.dumps({"schema": SCHEMA, **self._mount, **session.as_dict()}) + "\n"
        process = subprocess.Popen(
            self._hook.words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": os.defpath, "HOME": self._hook.home, "LANG": "C.UTF-8"},
            start_new_session=True,
            umask=0o077,
            **self._identity(),
        )
        try:
            said = _converse(process, text.encode())
        except subprocess.TimeoutExpired:
            return f"took longer than {_SECONDS:.0f} seconds"
        finally:
            # What it has left behind goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if process.returncode == 0:
            return ""
        words = printable(said.decode("utf-8", "backslashreplace").strip())[:_MAX_SHOWN]
        return f"ended with {process.returncode}" + (f": {words}" if words else "")

    def _identity(self) -> dict[str, Any]:
        if self._hook.ids is None:
            return {}
        uid, gid = self._hook.ids
        return {"user": uid, "group": gid, "extra_groups": []}


def _converse(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Give a process its input, which fits into a pipe, and wait until it has ended; returns the
    beginning of what it said on stderr. The rest is dropped, as it may be without end.

    Raises subprocess.TimeoutExpired after `_SECONDS`.
    """
    end = time.monotonic() + _SECONDS
    said = b""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(text)
            process.stdin.close()
    with selectors.DefaultSelector() as selector:
        if process.stderr is not None:
            selector.register(process.stderr, selectors.EVENT_READ)
        # A child that it leaves behind may keep stderr open.
        while process.poll() is None or selector.select(0):
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(process.args, _SECONDS)
            if not selector.select(_POLL_SECONDS) or process.stderr is None:
                continue
            piece = os.read(process.stderr.fileno(), _MAX_SAID_BYTES)
            said = (said + piece)[:_MAX_SAID_BYTES]
            if not piece:
                process.wait(max(0.0, end - time.monotonic()))
                break
    return said
