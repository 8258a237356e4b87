"""A machine of its own for the page: namespaces of mounts and processes in which the places that it
names are a new file system, or lie over those of this machine.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.commands import run
from tests.disks import MKFS
from tests.docs.page import blocks

if TYPE_CHECKING:
    from collections.abc import Callable

_DISK_MIB = 320
_UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_EMPTY = "srv mnt opt var/lib var/log"
_OVERLAID = "etc usr/local/bin usr/local/sbin"
# Ends, with every process and mount in it, when its standard input is closed. The backup disk is
# detached at once, and kept by the open descriptor alone, so that nothing is left of it either.
_SET_UP = f"""
set -eu
cd "$1"
mkdir root
mount -o loop machine.img root
for place in {_EMPTY}; do
    mkdir -p root/new/$place
    mount --bind root/new/$place /$place
done
for place in {_OVERLAID}; do
    mkdir -p root/over/$place root/work/$place
    mount -t overlay -o lowerdir=/$place,upperdir=root/over/$place,workdir=root/work/$place \\
        overlay /$place
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm  # where a daemon that is killed leaves a file
rm -f /usr/local/bin/mirrorfs /usr/local/sbin/mirror-night
mkdir -p /var/lib/libvirt/images
disk=$(losetup --find --show disk.img)
exec 9<"$disk"
losetup --detach "$disk"
echo "$disk"
cat
:
"""
# What stands in for the network: the environment of these tests is what was "cloned" and set up.
_GIT = f"""#!/bin/sh
set -eu
case $1 in
clone)
    for target; do :; done
    mkdir -p "$target/tools"
    ln -s {Path(sys.executable).parent.parent} "$target/.venv"
    printf '#!/bin/sh\\n' >"$target/tools/bootstrap"
    chmod 755 "$target/tools/bootstrap"
    ;;
pull) [ "$PWD" = /opt/mirrorfs ] ;;
esac
"""
_DATE = """#!/bin/sh
exec /bin/date --date "$(cat /run/date)" "$@"
"""
# What systemd does with a unit of fstab. Whether a unit can be enabled, the real systemctl judges.
_SYSTEMCTL = """#!/bin/sh
set -eu
echo "$@" >>/run/systemctl
case "$1" in
restart)
    ! mountpoint -q /mnt/mirror || umount /mnt/mirror
    mount /mnt/mirror
    ;;
enable | disable) [ ! -x /bin/systemctl ] || /bin/systemctl --root=/ "$1" "$3" ;;
esac
"""
_AS_ROOT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}
_AS_CRON = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LOGNAME": "root", "SHELL": "/bin/sh"}


class Machine:
    """A backup machine whose disk holds a file system of this kind, and the page's blocks."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Start it. `folder` will hold its disks."""
        self.blocks = blocks()
        for name, size_mib, fs_type in ("machine", 256, "ext4"), ("disk", _DISK_MIB, kind):
            with (folder / f"{name}.img").open("wb") as image:
                image.truncate(size_mib << 20)
            run(*MKFS[fs_type], folder / f"{name}.img")
        self._holder = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _SET_UP, "sh", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        self._disk = self._holder.stdout.readline().strip()
        assert self._disk
        children = f"/proc/{self._holder.pid}/task/{self._holder.pid}/children"
        self._pid = int(Path(children).read_text())
        self.put("/usr/local/bin/git", _GIT, 0o755)
        self.put("/usr/local/bin/date", _DATE, 0o755)

    def stop(self) -> None:
        self._holder.communicate()

    def __truediv__(self, path: str) -> Path:
        """A path of that machine, to be read and written from this one."""
        return Path(f"/proc/{self._pid}/root", path.lstrip("/"))

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of that machine."""
        (self / path).write_text(text)
        (self / path).chmod(mode)

    def command(self, *words: str, environment: dict[str, str] = _AS_ROOT) -> list[str]:
        """The words that run this command there."""
        settings = [f"{name}={value}" for name, value in environment.items()]
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--pid"]
        return [*enter, "env", "-i", *settings, *words]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there, as root's shell would."""
        return run(*self.command(*words), check=check, timeout=60)

    def follow(self, *names: str) -> None:
        """Do what these blocks of the page say: run each, or write the file that it shows."""
        for name in names:
            block = self.blocks[name]
            if not block.file:
                self.run("sh", "-euc", block.text)
                continue
            text = block.text
            if name == "fstab":
                # The one thing that the page leaves to its reader: what the disk is called.
                text = (self / "/etc/fstab").read_text() + text.replace("LABEL=backup", self._disk)
            self.put(block.file, text, 0o755 if block.is_executable else 0o644)

    def night_command(self, when: str) -> list[str]:
        """The words that run the job as cron does at this time."""
        self.put("/run/date", when)
        *_fields, user, job = self.blocks["cron"].text.split()
        assert user == "root"
        return self.command("sh", "-c", job, environment=_AS_CRON)

    def night(self, when: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the job to its end."""
        return run(*self.night_command(when), check=check, timeout=60)

    def boot_systemd(self) -> None:
        """From now on the machine looks as if systemd ran it."""
        (self / "/run/systemd/system").mkdir(parents=True)
        self.put("/usr/local/sbin/systemctl", _SYSTEMCTL, 0o755)

    def kill_daemon(self) -> None:
        """What a crash does: the daemon is gone, the dead mount stays."""
        stats = json.loads((self / "/mnt/mirror/.mirrorfs/stats.json").read_text())
        self.run("kill", "-9", str(stats["pid"]))
        wait_until(self._is_dead)

    def _is_dead(self) -> bool:
        try:
            os.stat(self / "/mnt/mirror")
        except OSError as exc:
            return exc.errno == errno.ENOTCONN
        return False


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return as soon as it is so; the test's own timeout ends it otherwise."""
    while not is_so():
        time.sleep(0.01)
