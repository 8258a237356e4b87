"""Real file systems on loop devices."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@contextlib.contextmanager
def loop_mounted(kind: str, folder: Path, size_mib: int) -> Iterator[Path]:
    """A new file system of this kind on a loop device, mounted."""
    image = folder / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    run(*MKFS[kind], image)
    try:
        with image_mounted(image, folder / kind) as point:
            yield point
    finally:
        image.unlink()


@contextlib.contextmanager
def image_mounted(image: Path, point: Path, *words: str) -> Iterator[Path]:
    """The file system in `image` on a loop device, mounted at `point`, which is made; `words` are
    more for mount(8).
    """
    point.mkdir()
    run("mount", "-o", "loop", *words, image, point)
    try:
        yield point
    finally:
        run("umount", "--lazy", point)
