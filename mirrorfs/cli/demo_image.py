"""A realistic disk image: an ext4 file system with files of this machine in it, and a night's work.

Nothing here needs root or a loop device. The content of an image depends only on the machine's
files, and a night's work on its seed.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

from mirrorfs.errors import MirrorfsError

BLOCK_BYTES = 4096
APPARENT_BYTES = 2 << 30
CONTENT_BYTES = 300 << 20
TOOLS = {"mkfs.ext4": "e2fsprogs", "debugfs": "e2fsprogs", "e2fsck": "e2fsprogs"}

_SOURCES = ("/usr/share", "/usr/lib", "/usr/bin", "/etc")
_MAX_FILE_BYTES = 24 << 20
_DELETED_SHARE = 50  # one file in so many


def require_tools(*names: str) -> None:
    """Raise MirrorfsError that names the first program that is missing, and its package."""
    packages = {**TOOLS, "rsync": "rsync"}
    for name in names:
        if find_tool(name) is None:
            raise MirrorfsError(f"'{name}' is not installed; install the package {packages[name]}")


def find_tool(name: str) -> str | None:
    """Where a program is, looking also where only root's PATH leads."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def build(
    image: Path,
    work: Path,
    content_bytes: int = CONTENT_BYTES,
    apparent_bytes: int = APPARENT_BYTES,
) -> list[str]:
    """Make an image of `apparent_bytes` with about `content_bytes` of files in it; a folder in
    `work` is made and removed again.

    Returns the paths of the files in the image. Raises MirrorfsError if a program fails.
    """
    tree = work / "tree"
    names = _gather(tree, content_bytes)
    with image.open("wb") as file:
        file.truncate(apparent_bytes)
    # lazy_itable_init=0 and a fixed inode size keep one machine's images alike.
    _run("mkfs.ext4", "-q", "-F", "-b", "4096", "-d", str(tree), str(image))
    shutil.rmtree(tree)
    return names


def change(image: Path, names: list[str], percent: float, seed: int = 1) -> None:
    """Delete some of the files `names` in the image and discard their blocks, then rewrite about
    `percent` of the image's data in place.

    Raises MirrorfsError if a program fails.
    """
    chance = random.Random(seed)
    data = _data_blocks(image)
    wanted = int(len(data) * percent / 100)
    changed: set[int] = set()
    doomed = chance.sample(names, max(1, len(names) // _DELETED_SHARE))
    _delete(image, doomed)
    stored = _data_blocks(image)
    # The file system's own structures lie first in the image and stay as they are.
    usable = stored[len(stored) // 10 :]
    with image.open("r+b") as file:
        while len(changed) < wanted:
            start = chance.randrange(len(usable))
            for block in usable[start : start + chance.randrange(1, 64)]:
                file.seek(block * BLOCK_BYTES)
                file.write(chance.randbytes(BLOCK_BYTES))
                changed.add(block)


def _gather(tree: Path, content_bytes: int) -> list[str]:
    """Copy files of this machine into `tree`, up to `content_bytes` in all; returns their paths
    below `tree`, each with a `/` in front.
    """
    names: list[str] = []
    left = content_bytes
    for source in _SOURCES:
        for folder, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files):
                path = Path(folder, name)
                size = _readable_size(path)
                if not 0 < size <= min(left, _MAX_FILE_BYTES):
                    continue
                target = tree / path.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                names.append(f"/{path.relative_to('/')}")
                left -= size
            if left < content_bytes // 100:
                return names
    return names


def _readable_size(path: Path) -> int:
    """Size in bytes of a regular file that may be read, and whose name debugfs(8) understands; 0
    for any other.
    """
    try:
        plain = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
        return path.stat().st_size if plain and not set(str(path)) & set(' "\\\n') else 0
    except OSError:
        return 0


def _delete(image: Path, names: list[str]) -> None:
    """Delete files inside the image and discard their blocks, without mounting it."""
    commands = image.with_suffix(".debugfs")
    commands.write_text("".join(f"rm {name}\n" for name in names))
    try:
        _run("debugfs", "-w", "-f", str(commands), str(image))
    finally:
        commands.unlink()
    for _ in range(2):  # the run that repairs does not discard
        _run("e2fsck", "-fy", "-E", "discard", str(image), allowed=(0, 1))


def _data_blocks(image: Path) -> list[int]:
    """Numbers of the blocks of `BLOCK_BYTES` of the image that are no hole."""
    blocks: list[int] = []
    with image.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        place = 0
        while place < end:
            try:
                start = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:
                break
            place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            blocks.extend(range(start // BLOCK_BYTES, place // BLOCK_BYTES))
    return blocks


def _run(name: str, *words: str, allowed: tuple[int, ...] = (0,)) -> None:
    require_tools(name)
    done = subprocess.run(
        [str(find_tool(name)), *words], capture_output=True, text=True, check=False
    )
    if done.returncode not in allowed:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise MirrorfsError(f"{name} failed: {lines[-1]}")
