"""Mounts of tiny_fs.py."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.commands import run, wait_for
from tests.mount import tiny_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mount.tiny_mounts import Tiny


@pytest.fixture
def mount_tiny(tmp_path: Path) -> Iterator[Callable[..., Tiny]]:
    """Mounts with the given words; ends every mount, and looks that it ended well."""
    mounts: list[Tiny] = []

    def mount(*words: str, **environment: str) -> Tiny:
        path = tmp_path / f"tiny-{len(mounts)}"
        mounts.append(tiny_mounts.mount(path, *words, **environment))
        wait_for(partial(tiny_mounts.is_mounted, mounts[-1]))
        mounts[-1].fd = os.open(path / "file0", os.O_RDWR)
        return mounts[-1]

    yield mount
    try:
        for tiny in mounts:
            tiny.end()
    finally:
        for tiny in mounts:
            tiny.server.kill()
            run("umount", "--lazy", tiny.path, check=False)


@pytest.fixture
def tiny(mount_tiny: Callable[..., Tiny]) -> Tiny:
    return mount_tiny()
