"""A machine that systemd has booted: namespaces of their own over a copy (overlay) of this one's
files, with systemd as the first process. Nothing of this machine is changed by it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.commands import run, wait_for

_TOP = Path(__file__).parent.parent
SYSTEMD = Path("/lib/systemd/systemd")
# What systemd is to start is none of what this machine has enabled. It is told that it is in a
# container, so that it leaves the kernel, devices and the clock alone; /sys and /proc/sys are
# read-only all the same.
_BOOT = """
set -eu
base=$1 top=$2 venv=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/lower" "$base/upper" "$base/work" "$base/root"
mount --bind / "$base/lower"
mount -t overlay -o "lowerdir=$base/lower,upperdir=$base/upper,workdir=$base/work" o "$base/root"
cd "$base/root"
for place in "$top" "$venv"; do
    mkdir -p ".$place"
    mount --bind "$place" ".$place"
done
rm -rf etc/systemd/system/* etc/fstab etc/machine-id etc/mirrorfs.toml
: >etc/fstab
: >etc/machine-id
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nRateLimitBurst=0\\n' >etc/systemd/journald.conf.d/test.conf
ln -s /lib/systemd/system/basic.target etc/systemd/system/default.target
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/pts
for node in null zero full random urandom tty fuse; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
ln -s null dev/console
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mkdir old
pivot_root . old
umount --lazy /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"""


class Booted:
    """It ends with `stop`."""

    def __init__(self, folder: Path) -> None:
        self._groups = _new_groups()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child",
             "sh", "-c", _BOOT, "sh", str(folder), str(_TOP), sys.prefix],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=self._enter_groups,
        )  # fmt: skip
        self._pid = 0
        wait_for(self._has_begun)
        self.put(
            "/usr/sbin/mirrorfs",
            f"#!/bin/sh\nexport PYTHONPATH='{_TOP}'\nexec '{sys.executable}' -m mirrorfs \"$@\"\n",
            0o755,
        )
        wait_for(lambda: self.systemctl("is-active", "basic.target", check=False) == "active")

    def _enter_groups(self) -> None:
        for group in self._groups:
            # Which must be said before a group of cpuset can have processes.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (group / setting).exists() and "cpuset" in str(group.parent):
                    (group / setting).write_text((group.parent / setting).read_text())
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def _has_begun(self) -> bool:
        assert self._holder.poll() is None, "systemd could not be started"
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text()
        self._pid = int(children or 0)
        with contextlib.suppress(OSError):
            return bool(self._pid) and (self / "/run/systemd/private").exists()
        return False

    def stop(self) -> None:
        self._holder.kill()
        self._holder.wait()
        for group in self._groups:
            _remove_group(group)

    def power_off(self) -> None:
        """Shut it down in order."""
        self.systemctl("poweroff", check=False)
        self._holder.wait(100)

    def __truediv__(self, path: object) -> Path:
        """A path of that machine, to be read and written from this one."""
        return Path(f"/proc/{self._pid}/root{path}")

    def put(self, path: object, text: str, mode: int = 0o644) -> None:
        """Write a file there."""
        (self / path).parent.mkdir(parents=True, exist_ok=True)
        (self / path).write_text(text)
        (self / path).chmod(mode)

    def run(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there, outside of all units, as root's shell would."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--cgroup", "--root"]
        return run(*enter, "env", "--chdir=/", *words, check=check, timeout=100)

    def systemctl(self, *words: str, check: bool = True) -> str:
        """What systemctl(1) says, without the end of the line."""
        return self.run("systemctl", *words, check=check).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def journal(self, *words: str) -> str:
        """Lines of the journal."""
        return self.run("journalctl", "--no-pager", "--quiet", *words).stdout


def _new_groups() -> list[Path]:
    """A new group in each hierarchy (cgroups(7)), below that of this process: the root of all that
    systemd sees.
    """
    name = f"mirrorfs-tests-{os.getpid()}-{time.monotonic_ns()}"
    mounted = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        wanted = {*controllers.split(",")} if controllers else set()
        for _, place, kind, options, *_ in mounted:
            if kind == ("cgroup" if wanted else "cgroup2") and wanted <= {*options.split(",")}:
                groups.append(Path(f"{place}{own}", name))
                groups[-1].mkdir()
                break
    return groups


def _remove_group(group: Path) -> None:
    def is_removed() -> bool:
        with contextlib.suppress(OSError):
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
        return not group.exists()

    wait_for(is_removed)
