"""Files that were written by a mount and have digests, and scrubs of them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.digest_file import Folder, Identity
from mirrorfs.backing.statx import statx
from tests.commands import mirrorfs, wait_for

if TYPE_CHECKING:
    from tests.mounted import Mirror

MIB = 1 << 20
CHUNK = 1 << 16


def data(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def identity(path: Path) -> Identity:
    fd = os.open(path, os.O_PATH)
    try:
        status = statx(fd)
    finally:
        os.close(fd)
    return Identity(0, status.ino, status.btime_ns)


def states(backing: Path, name: str) -> bytes | None:
    """The states of the first chunks of a file, as its digest file has them; None if it has none
    that is closed.
    """
    try:
        fd = os.open(backing / ".mirrorfs", os.O_RDONLY)
    except FileNotFoundError:
        return None
    folder = Folder(fd)
    try:
        who = identity(backing / name)
        file = folder.look(who)
        if file is None:
            return None
        try:
            header = file.header(who, folder.seed)
            if header is None or header.mark != 1:
                return None
            count = -(-header.stamp.size // CHUNK)
            return bytes(file.group(0, folder.seed).states[:count])
        finally:
            file.close()
    finally:
        folder.close()
        os.close(fd)


def wait_for_digests(mirror: Mirror, name: str) -> None:
    wait_for(lambda: states(mirror.backing, name) is not None)


def copied(mirror: Mirror, name: str, content: bytes) -> Path:
    """A file that was written by the mount, and is sealed; its backing file."""
    mirror.write(name, 0, content)
    wait_for_digests(mirror, name)
    return mirror.backing / name


def scrubbed(*words: object, code: int = 0) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What a scrub tells of each file, and of all."""
    done = mirrorfs("scrub", "--json", *words, check=False)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    *files, end = map(json.loads, done.stdout.splitlines())
    return {one["file"]: one for one in files}, end


def has_open(pid: int, path: Path) -> bool:
    try:
        return any(
            link.readlink() == path
            for link in Path(f"/proc/{pid}/fd").iterdir()
            if link.is_symlink()
        )
    except FileNotFoundError:
        return False
