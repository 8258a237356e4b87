"""A mount as a user has it, and what it may leave in memory."""

from __future__ import annotations

import json
import os
import select
import signal
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mirrorfs.backing import progress_table
from tests.commands import mirrorfs, mirrorfs_preloaded, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("written_bytes", "unchanged_bytes", "punched_bytes", "hole_bytes", "shared_bytes")
# All that were used; each may have had a table in memory (`mirrorfs.backing.progress_table`).
STATE_FOLDERS: set[bytes] = set()
OWNER_OF = progress_table.owner_of


@dataclass
class Mirror:
    """A mount as a user has it: a backing folder, a mount point, and a daemon in another
    process.
    """

    backing: Path
    path: Path
    log: Path
    options: str = ""
    noisy: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    is_killed: bool = False

    @property
    def state_folder(self) -> bytes:
        words = [word.partition("=") for word in self.options.split(",")]
        given = [value for name, _, value in words if name == "state"]
        return os.fsencode(given[-1] if given else self.backing / ".mirrorfs")

    def mount(self, *words: str) -> Mirror:
        STATE_FOLDERS.add(self.state_folder)
        self.is_killed = False
        options = ",".join(filter(None, [f"log={self.log}", self.options]))
        command = ("mount", self.backing, self.path, "-o", options, *words)
        if self.environment:  # which may say what is to be loaded
            mirrorfs(*command, env={**os.environ, **self.environment})
        else:
            mirrorfs_preloaded(*command)
        return self

    def umount(self) -> None:
        mirrorfs_preloaded("umount", self.path)

    @property
    def pid(self) -> int:
        return int(self.stats()["pid"])

    def kill(self) -> None:
        """What a crash does: the daemon is gone, the dead mount stays."""
        pid = self.pid
        watch = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([watch], [], [], 60)
        os.close(watch)
        self.is_killed = True

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / ".mirrorfs/stats.json").read_bytes())
        return found

    def counters(self) -> SimpleNamespace:
        return SimpleNamespace(**self.stats()["counters"])

    def account(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(**json.loads(os.getxattr(self.path / name, "user.mirrorfs.stats")))

    def write(self, name: str, offset: int, data: bytes) -> int:
        """One write through the mount, which makes the file if it is not there."""
        fd = os.open(self.path / name, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            return os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def holes(self, name: str) -> list[tuple[int, int]]:
        """The holes of the backing file."""
        fd = os.open(self.backing / name, os.O_RDONLY)
        try:
            size, place, found = os.fstat(fd).st_size, 0, []
            while place < size:
                hole = os.lseek(fd, place, os.SEEK_HOLE)
                if hole >= size:
                    break
                try:
                    place = os.lseek(fd, hole, os.SEEK_DATA)
                except OSError:
                    place = size
                found.append((hole, place))
            return found
        finally:
            os.close(fd)

    def troubles(self) -> list[str]:
        """Lines of the log that are worse than information."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if " WARNING " in line or " ERROR " in line]

    def end(self) -> None:
        run("umount", "--lazy", self.path, check=False)
        wait_for(lambda: not self.path.is_mount())
        if self.is_killed and self.backing.exists():
            # The next mount would.
            progress_table.remove_all(progress_table.owner_of(self.state_folder))


def tables_left() -> list[bytes]:
    """The state folders of ours of which there is a table in memory. Those of others, who may test
    here at the same time, are none of our folders.
    """
    names = os.listdir(progress_table.FOLDER)
    return [
        folder
        for folder in STATE_FOLDERS
        if os.path.isdir(os.path.dirname(folder))
        and any(name.startswith(f"mirrorfs-{OWNER_OF(folder)}-".encode()) for name in names)
    ]


def without_extension(folder: Path) -> str:
    """For PYTHONPATH: a folder, made in `folder`, with which the native module comes too late to
    get before libfuse, so that a mount has nothing but pyfuse3.
    """
    place = folder / "without"
    place.mkdir()
    (place / "sitecustomize.py").write_text("import pyfuse3\n")
    return str(place)
