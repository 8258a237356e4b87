"""The image that is copied, and what a night leaves of it."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mirrorfs.cli import demo_image
from tools.benchmark.machine import run, say

FIRST, CHANGED, UNCHANGED = "first copy", "second night", "unchanged"
NIGHTS = (FIRST, CHANGED, UNCHANGED)
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Images:
    """The image of the first night and that of the second, which has the same name.

    `changed_bytes` lie in blocks that differ and are not zero in the second: the least to write.
    """

    first: Path
    second: Path
    image_bytes: int
    allocated_bytes: int
    changed_bytes: int

    def of(self, night: str) -> Path:
        """The source of a night's copy, with a time that keeps rsync from skipping it."""
        if night == UNCHANGED:
            set_later(self.second)
        return self.first if night == FIRST else self.second


def make(
    work: Path,
    content_bytes: int = demo_image.CONTENT_BYTES,
    apparent_bytes: int = demo_image.APPARENT_BYTES,
    percent: float = 1.0,
) -> Images:
    """The demo image, and the same after a night that has changed `percent` of its data."""
    first, second = (work / name / "vm.img" for name in ("first", "second"))
    for image in (first, second):
        image.parent.mkdir()
    say("making the image and what a night leaves of it")
    made = work / "vm.img"
    names = demo_image.build(made, work, content_bytes, apparent_bytes)
    # mkfs preallocates its journal, which would count as allocated in the source alone.
    run("cp", "--sparse=always", made, first)
    made.unlink()
    run("cp", "--sparse=always", first, second)
    demo_image.change(second, names, percent)
    set_later(second)
    os.sync()  # delayed allocation would not count
    changed = _changed_blocks(first, second) * BLOCK
    return Images(first, second, apparent_bytes, allocated_bytes(first), changed)


def set_later(image: Path, before_ns: int | None = None) -> None:
    """Set the time two seconds on from `before_ns`, its own time if not given: rsync compares whole
    seconds, and two nights here may lie within one.
    """
    then = (image.stat().st_mtime_ns if before_ns is None else before_ns) + 2_000_000_000
    os.utime(image, ns=(then, then))


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def is_equal(one: Path, two: Path) -> bool:
    return not subprocess.run(["cmp", "-s", one, two], check=False).returncode


def _changed_blocks(old: Path, new: Path) -> int:
    count = 0
    with old.open("rb") as one, new.open("rb") as two:
        while after := two.read(BLOCK):
            count += one.read(BLOCK) != after and any(after)
    return count
