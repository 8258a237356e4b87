"""What is known of the files of a backing folder by their digests, held against what lies there."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.backing.digest_file import GROUP_CHUNKS, Chunk, Folder, Identity, Mark
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.known_digests import stamp_of

if TYPE_CHECKING:
    from pathlib import Path

    from mirrorfs.backing.digest_file import DigestFile

CHUNK = 1 << 16
WORTH = 1 << 20


@dataclass
class Known:
    """Of one file. Nothing is counted if its digests are not `believed`: it has none, or they are
    busy, open, or of another stamp; `why` says which. `wrong` are the numbers of chunks of which
    something untrue is known, `lost` those of which nothing is.
    """

    believed: bool = False
    why: str = ""
    known: int = 0
    zeros: int = 0
    lost: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)

    @property
    def is_all(self) -> bool:
        """Whether all of it is known."""
        return self.believed and not self.lost


def known_of(backing: Path, state: Path | None = None) -> dict[str, Known]:
    """By path below the backing folder, of all regular files there. Digests that a daemon is busy
    with are not believed.
    """
    parent = os.open(state or backing / ".mirrorfs", os.O_RDONLY)
    try:
        folder = Folder(parent)
    finally:
        os.close(parent)
    device = backing.stat().st_dev
    try:
        return {
            str(path.relative_to(backing)): _known_of_one(path, folder, device)
            for path in sorted(backing.rglob("*"))
            if path.is_file() and not path.is_symlink() and ".mirrorfs" not in path.parts
        }
    finally:
        folder.close()


def all_right(backing: Path, state: Path | None = None) -> dict[str, Known]:
    """`known_of`, of which nothing is untrue."""
    found = known_of(backing, state)
    assert not {name: one.wrong for name, one in found.items() if one.wrong}
    return found


def wait_for_seal(backing: Path, *names: str, state: Path | None = None) -> dict[str, Known]:
    """Return what is known as soon as the digests of these files are believed."""

    found: dict[str, Known] = {}
    end = time.monotonic() + 15
    while not (found and all(found[name].believed for name in names)):
        assert time.monotonic() < end, {name: found[name] for name in names}
        time.sleep(0.05)
        found = known_of(backing, state)
    return found


def _known_of_one(path: Path, folder: Folder, root_device: int) -> Known:
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        status = statx(fd)
        device = 0 if status.dev == root_device else status.dev
        identity = Identity(device, status.ino, status.btime_ns)
        try:
            file = folder.try_open(identity)
        except BlockingIOError:
            return Known(why="busy")
        if file is None:
            return Known(why="none")
        try:
            header = file.header(identity, folder.seed)
            if header is None:
                return Known(why="no use")
            if header.mark is not Mark.CLOSED:
                return Known(why="open")
            if header.stamp != stamp_of(status):
                return Known(why=f"{header.stamp} is not {stamp_of(status)}")
            return _compared(fd, status.size, file, folder.seed)
        finally:
            file.close()
    finally:
        os.close(fd)


def _compared(fd: int, size: int, file: DigestFile, seed: int) -> Known:
    found = Known(believed=True)
    chunks = chunk_digests.count(size)
    for number in range(-(-chunks // GROUP_CHUNKS)):
        group = file.group(number, seed)
        base = number * GROUP_CHUNKS
        for place in range(min(GROUP_CHUNKS, chunks - base)):
            states, digest = group.get(place, place + 1)
            state = states[0]
            if state == Chunk.UNKNOWN:
                found.lost.append(base + place)
                continue
            found.zeros += state == Chunk.ZEROS
            found.known += state == Chunk.KNOWN
            data = os.pread(fd, CHUNK, (base + place) * CHUNK)
            is_right = {
                Chunk.KNOWN: chunk_digests.digests(data, seed) == digest,
                Chunk.ZEROS: not data.strip(b"\0"),
            }.get(Chunk(state), False)
            if not is_right:
                found.wrong.append(base + place)
    return found
