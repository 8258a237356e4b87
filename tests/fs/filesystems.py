"""A whole file system without a mount: what the kernel would send is called by hand."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mirrorfs import options as mount_options
from mirrorfs.backing.credentials import Credentials
from mirrorfs.backing.probe import probe
from mirrorfs.fs.filesystem import Filesystem
from mirrorfs.fs.inode_numbers import ROOT_ID
from mirrorfs.fs.kernel import Kernel
from mirrorfs.fs.setup import Setup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MOUNT_POINT = b"/mnt/mirror"
MYSELF = Credentials(os.getuid(), os.getgid(), os.getpid())


def nothing(_node_id: int) -> None:
    """The kernel keeps nothing that could be dropped."""


KERNEL = Kernel(nothing, nothing, lambda _number: False, lambda: True, lambda: {"a": {"on": True}})


@contextlib.asynccontextmanager
async def opened_filesystem(
    folder: Path, words: str = "", state_folder: bytes | None = None
) -> AsyncIterator[Filesystem]:
    """The file system over a folder, mounted with the options in `words`."""
    backing_fd = os.open(folder, os.O_RDONLY)
    try:
        fs = Filesystem(
            Setup(
                os.fsencode(folder),
                backing_fd,
                MOUNT_POINT,
                mount_options.parse(words),
                probe(backing_fd, writable=True),
                state_folder,
                "" if state_folder else "no reason",
                state_folder,
                (),
                100,
                "stderr",
            ),
            KERNEL,
        )
        try:
            yield fs
        finally:
            fs.close_files()
            fs.end_threads()
    finally:
        os.close(backing_fd)


async def read_control(fs: Filesystem, name: bytes) -> bytes:
    """What a client reads from a control file."""
    folder = await fs.names.lookup(ROOT_ID, b".mirrorfs")
    entry = await fs.names.lookup(folder.node_id, name)
    opened = await fs.files.open(entry.node_id, os.O_RDONLY, MYSELF)
    try:
        return bytes(await fs.content.read(opened.handle, 0, 1 << 20))
    finally:
        await fs.files.release(opened.handle)


async def make_file(fs: Filesystem, name: bytes, flags: int = os.O_RDWR) -> tuple[int, int]:
    """Make a file in the root; returns its node id, and the handle by which it is open."""
    entry, opened = await fs.creation.create(ROOT_ID, name, 0o644, flags, MYSELF)
    return entry.node_id, opened.handle
