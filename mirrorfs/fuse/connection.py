"""One FUSE connection: the file system, and what stands between it and the kernel."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import pyfuse3

from mirrorfs.backing.paths import show
from mirrorfs.errors import FuseError
from mirrorfs.fs.filesystem import Filesystem
from mirrorfs.fs.kernel import Kernel
from mirrorfs.fuse.guard import Guard
from mirrorfs.fuse.handlers import Handlers
from mirrorfs.fuse.interrupts import Interrupts
from mirrorfs.fuse.operations import table
from mirrorfs.fuse.optional_features import OptionalFeatures
from mirrorfs.fuse.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.fs.setup import Setup

log = logging.getLogger(__name__)

# Requests that can be under way, waiting for a device or for a thread. A small one costs 9 KiB
# while it waits, a write of 1 MiB twice its size: 5 MiB, 1 GiB at the very worst. That is enough
# for ten stalled devices with all their threads, and twice what the kernel reads ahead.
_TASKS = 512


class Connection:
    """Makes the file system of one mount, and serves it. `describe_more` adds to what config.json
    says of features.
    """

    def __init__(self, setup: Setup, describe_more: Callable[[], dict[str, object]]) -> None:
        self.features = features = OptionalFeatures(setup.options)
        interrupts = Interrupts()
        kernel = Kernel(
            _drop_attributes,
            _drop_content,
            interrupts.is_interrupted,
            features.writes_directly,
            lambda: {**features.describe(), **describe_more()},
        )
        self.fs = Filesystem(setup, kernel)
        guard = Guard(self.fs.account)
        operations = table(self.fs)
        self._requests = Requests(operations, self.fs.turn, guard, interrupts)
        self._handlers = Handlers(self.fs, list(operations.values()), guard)
        features.install(self._requests)

    def mount(self, mount_point: bytes, words: set[str]) -> None:
        """Mount, with the options of libfuse in `words`. Raises FuseError."""
        try:
            pyfuse3.init(self._handlers, os.fsdecode(mount_point), words)
        except RuntimeError as exc:
            raise FuseError(f"{show(mount_point)}: FUSE refused the mount: {exc}") from None

    async def serve(self) -> None:
        """Answer requests until the mount ends, or `terminate` was called."""
        if self.features.are_requests_ours:
            devices = self.fs.devices
            if await self._requests.serve(lambda: not devices.is_cut_off):
                for line in devices.cut_off():
                    log.warning("%s", line)
            return
        try:
            await pyfuse3.main(max_tasks=_TASKS)
        except* ConnectionAbortedError:
            log.debug("the mount ended while a request was being handed over")

    def terminate(self) -> None:
        """Let `serve` return when the requests that it has are answered."""
        if self.features.are_requests_ours:
            self._requests.stop()
        else:
            pyfuse3.terminate()

    def close(self, unmount: bool) -> None:
        """End the connection; with `unmount` the mount, too."""
        pyfuse3.close(unmount=unmount)


def _drop_attributes(node_id: int) -> None:
    with contextlib.suppress(OSError):  # the kernel has forgotten it, or the mount has ended
        pyfuse3.invalidate_inode(pyfuse3.InodeT(node_id), attr_only=True)


def _drop_content(node_id: int) -> None:
    with contextlib.suppress(OSError):  # as above
        pyfuse3.invalidate_inode(pyfuse3.InodeT(node_id))
