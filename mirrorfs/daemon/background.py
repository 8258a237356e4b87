"""What a mount does by itself, beside answering requests: sweeping, giving memory back, finalising
what a crash has left.

Guarantees: nothing here ends the mount, whatever it meets: a disk that died, above all. What goes
wrong is counted with the errors of requests, and logged once for each kind.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import trio

from mirrorfs.backing import syscalls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirrorfs.fs.filesystem import Filesystem

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 1.0
_STALL_SECONDS = 0.2


class Background:
    """The tasks of one mount; `run` never returns."""

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self._logged: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Run all tasks."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._guarded, self._finish_leftovers)
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._trim)

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do one step, whatever comes of it."""
        try:
            await step()
        except Exception as exc:
            self._note(step.__name__.lstrip("_"), exc)

    def _note(self, name: str, exc: Exception) -> None:
        self._fs.account.add_error((isinstance(exc, OSError) and exc.errno) or errno.EIO)
        kind = f"{type(exc).__name__} {exc}"
        if (name, kind) not in self._logged:
            self._logged.add((name, kind))
            is_expected = isinstance(exc, OSError)
            log.warning("%s failed: %s", name, exc, exc_info=None if is_expected else exc)

    async def _finish_leftovers(self) -> None:
        await self._fs.late_recovery.finish_all(self._fs.devices.root)

    async def _sweep(self) -> None:
        steps = (
            self._sweep_unlinked,
            self._sweep_inodes,
            self._fs.open_files.sweep,
            self._sweep_sessions,
        )
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            for step in steps:
                await self._guarded(step)

    async def _watch(self) -> None:
        while True:
            await trio.sleep(_STALL_SECONDS)
            await self._guarded(self._note_stalls)

    async def _note_stalls(self) -> None:
        self._fs.open_files.note_stalls()

    async def _sweep_unlinked(self) -> None:
        self._fs.unlinked.sweep()

    async def _sweep_inodes(self) -> None:
        self._fs.inodes.sweep()

    async def _sweep_sessions(self) -> None:
        self._fs.sessions.sweep()

    async def _trim(self) -> None:
        """Give memory back when clients have moved data and have then been quiet for a moment."""
        account = self._fs.account
        given_back_at = seen = account.moved_bytes()
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            before, seen = seen, account.moved_bytes()
            if given_back_at != seen == before:
                syscalls.give_back_request_buffers()
                given_back_at = seen
