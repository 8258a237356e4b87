"""A machine for mount(8): a mount namespace in which /sbin has the helpers, /etc an fstab of its
own, and one folder is a file system of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import run

_TOP = Path(__file__).parent.parent
_SBIN = os.path.realpath("/sbin")
HELPERS = ("mount.mirrorfs", "mount.fuse.mirrorfs")
_SET_UP = """
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"
for place in /etc "$2"; do
    mkdir -p "$1/up$place" "$1/work$place"
    mount -t overlay -o "lowerdir=$place,upperdir=$1/up$place,workdir=$1/work$place" o "$place"
done
rm -f /etc/mirrorfs.toml
: >/etc/fstab
mkdir "$1/backing" "$1/mirror"
echo begun
cat
umount --lazy "$1/mirror" 2>/dev/null || :
"""


class Mount8:
    """It ends when its holder's standard input is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.backing, self.point = folder, folder / "backing", folder / "mirror"
        self.log = folder / "log"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _SET_UP, "sh", str(folder), _SBIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "begun\n"
        start = f"#!/bin/sh\nexport PYTHONPATH='{_TOP}'\nexec '{sys.executable}' -m"
        for name in HELPERS:
            self.put(f"/sbin/{name}", f'{start} mirrorfs.cli.mount_helper "$@"\n')
        self.put("/sbin/mirrorfs", f'{start} mirrorfs "$@"\n')

    def stop(self) -> None:
        self._holder.communicate()

    def inside(self, path: str | Path) -> Path:
        """A path there, to be read and written from here."""
        real = f"{_SBIN}/{path[6:]}" if isinstance(path, str) and path[:6] == "/sbin/" else path
        return Path(f"/proc/{self._holder.pid}/root{real}")

    def put(self, path: str, text: str, mode: int = 0o755) -> None:
        """Write a file there."""
        self.inside(path).write_text(text)
        self.inside(path).chmod(mode)

    def fstab(self, fs_type: str, options: str) -> None:
        """Let fstab have the mount, and nothing else."""
        self.put("/etc/fstab", f"{self.backing} {self.point} {fs_type} {options} 0 0\n", 0o644)

    def command(self, *words: object, user: int = 0) -> list[object]:
        """The words that run a command there."""
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--wd=/", *who, *words]

    def run(
        self, *words: object, check: bool = True, user: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        return run(*self.command(*words, user=user), check=check, timeout=60)

    def code(self, *words: object, user: int = 0) -> tuple[int, str]:
        """The exit code of a command there, and what it says on stderr."""
        done = self.run(*words, check=False, user=user)
        return done.returncode, done.stderr

    def flags(self) -> set[str]:
        """The options of the mount in the mount table; none if it is not there."""
        done = self.run("findmnt", "-no", "OPTIONS", self.point, check=False)
        return set(filter(None, done.stdout.strip().split(",")))

    def is_mounted(self) -> bool:
        return bool(self.flags())
