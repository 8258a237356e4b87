"""Power cuts while images are copied over older ones: what was on the disk at one moment is
mounted, and no file shows a block of an older copy where a newer one has begun.

The disk lies on xfs, where a clone of it shows it as it was at one moment.
"""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror import finalising
from tests.commands import run
from tests.crash.test_stale_tail_after_a_kill import ATTRIBUTE
from tests.disks import MKFS, image_mounted, loop_mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror

BLOCK, MIB = 4096, 1 << 20
BLOCKS = 500
CUTS = 8
WAYS = ("emptied", "renamed", "unlinked")


def content(chance: random.Random, before: list[bytes], most: int) -> list[bytes]:
    """The next night's blocks, `most` at most: a tenth is new, some are zeros now; the file may be
    shorter.
    """
    blocks = list(before) or [b""] * most
    for place in range(len(blocks)):
        if not before or chance.random() < 0.1:
            blocks[place] = chance.choice(
                [chance.randbytes(16) * (BLOCK // 16)] * 9 + [bytes(BLOCK)]
            )
    if chance.random() < 0.2:
        blocks = blocks[: chance.randrange(most * 3 // 4, most + 1)]
    return blocks


class Nights:
    """Copies one night's image after the other, in each of the ways in which tools do it. Now and
    then the disk is synced in the middle of a copy, and a picture of it is taken in another.

    `copied` is what was ever given to each name, in blocks.
    """

    def __init__(self, folder: Path, sync: Callable[[], object], cut: Callable[[], None]) -> None:
        self.folder, self.sync, self.cut = folder, sync, cut
        self.chance = random.Random(6)
        names = [f"{way}-{n}" for way in WAYS for n in range(3)]
        self.copied: dict[str, list[list[bytes]]] = {name: [[]] for name in names}

    def copy_all(self) -> None:
        for name in self.copied:
            blocks = content(self.chance, self.copied[name][-1], BLOCKS)
            self.copied[name].append(blocks)
            self.copy(name, b"".join(blocks))

    def copy(self, name: str, data: bytes) -> None:
        target = self.folder / name
        if name.startswith("renamed"):
            target = self.folder / f".{name}.AbCdEf"
        elif name.startswith("unlinked"):
            target.unlink(missing_ok=True)
        events = {
            self.chance.randrange(2 * len(data)): self.sync,
            self.chance.randrange(3 * len(data)): self.cut,
        }
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        place = 0
        while place < len(data):
            size = self.chance.choice([BLOCK, 40_000, MIB])
            begun, place = place, place + os.pwrite(fd, data[place : place + size], place)
            for when, event in events.items():
                if begun <= when < place:
                    event()
        syncing = threading.Thread(target=self.sync)
        if self.chance.random() < 0.5:
            syncing.start()  # so that a commit may come between the steps of finalising
        os.close(fd)
        if syncing.ident:
            syncing.join()
        if name.startswith("renamed"):
            target.rename(self.folder / name)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    with loop_mounted("xfs", tmp_path, 3000) as disk:
        yield disk


def without_small_files(folder: Path) -> str:
    """For PYTHONPATH: lets a daemon commit btrfs for every file, not for a large one alone."""
    assert finalising.COMMIT_WORTH_BYTES > BLOCKS * BLOCK
    (folder / "sitecustomize.py").write_text(
        f"from mirrorfs.mirror import finalising\nfinalising.COMMIT_WORTH_BYTES = {BLOCK}\n"
    )
    return str(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", [*MKFS, "btrfs, committed"])
def test_power_cut_shows_no_block_of_an_older_copy(
    host: Path, tmp_path: Path, mount_mirror: Callable[..., Mirror], way: str
) -> None:
    kind = way.partition(",")[0]
    environment = {"PYTHONPATH": without_small_files(tmp_path)} if kind != way else {}
    cuts: list[Path] = []

    def cut() -> None:
        cuts.append(host / f"cut-{len(cuts)}.img")
        run("cp", "--reflink=always", host / f"{kind}.img", cuts[-1])

    with loop_mounted(kind, host, 400) as disk:
        backing = disk / "backing"
        backing.mkdir()
        mirror = mount_mirror(backing, **environment)
        nights = Nights(mirror.path, lambda: run("sync", "-f", disk), cut)
        while len(cuts) < CUTS:
            nights.copy_all()
        mirror.umount()
    for image in cuts:
        check(image, host / f"found-{image.stem}", mount_mirror, nights.copied)


def may_be_left_of(blocks: list[bytes], data: list[bytes]) -> bool:
    return len(data) <= len(blocks) and all(
        there == whole or whole.startswith(there.rstrip(b"\0"))
        for there, whole in zip(data, blocks, strict=False)
    )


def check(
    image: Path,
    found: Path,
    mount_mirror: Callable[..., Mirror],
    copied: dict[str, list[list[bytes]]],
) -> None:
    """What a disk has kept: all of one copy, its beginning, or what a plain folder shows, which has
    zeros where data was not on the disk yet.
    """
    with image_mounted(image, found):
        mirror = mount_mirror(found / "backing")
        for path in mirror.backing.iterdir():
            if path.is_file():
                name = path.name.removeprefix(".").removesuffix(".AbCdEf")
                whole = path.read_bytes()
                data = [whole[at : at + BLOCK] for at in range(0, len(whole), BLOCK)]
                # A file that is whole may keep its attribute: that of one not listed is not read.
                assert ATTRIBUTE not in os.listxattr(path) or data in copied[name], path
                assert any(may_be_left_of(blocks, data) for blocks in copied[name]), path
        mirror.umount()
