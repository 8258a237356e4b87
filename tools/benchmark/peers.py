"""What is measured: the plain folder, mirrorfs, and file systems that do less than it.

Those are libfuse's passthrough_ll in C, bindfs, and a program in pyfuse3 that answers and does
nothing.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirrorfs.backing.readahead import set_readahead

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN, LL, LL_XATTRS, BINDFS = (
    "plain folder",
    "passthrough_ll",
    "passthrough_ll with xattrs",
    "bindfs",
)
NULL, MIRROR, MIRROR_OFF = "pyfuse3 doing nothing", "mirrorfs", "mirrorfs, rules off"
MIRRORFS = [sys.executable, "-m", "mirrorfs"]
_EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")
_NULL_PROGRAM = Path(__file__).with_name("null.py")
_NULL_READAHEAD = 1 << 20  # that of mirrorfs, so that both answer reads of the same size
_MOUNT_SECONDS = 20
_END_SECONDS = 10
_PACKAGES = {
    "bindfs": "bindfs",
    "gcc": "gcc",
    "pkg-config": "pkg-config",
    "losetup": "mount",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ext4": "e2fsprogs",
    "rsync": "rsync",
    "qemu-img": "qemu-utils",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A folder to measure in; `pid` is that of its daemon, 0 for none."""

    name: str
    path: Path
    pid: int = 0

    def cpu_seconds(self) -> float:
        """User and system time of the daemon so far, of threads that have ended as well."""
        # The CPU-time clock of another process (clock_getcpuclockid(3)): nanoseconds, not ticks.
        return time.clock_gettime(~self.pid << 3 | 2) if self.pid else 0.0

    def peak_mib(self) -> float:
        """Largest resident size of the daemon so far."""
        return memory_mib(self.pid, "VmHWM") if self.pid else 0.0


def memory_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def require(*programs: str) -> None:
    """End with one line that names the first program that is missing, and its package."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program in programs:
        if shutil.which(program, path=path) is None:
            sys.exit(
                f"'{program}' is missing; install the package {_PACKAGES.get(program, program)}"
            )


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def mirror(name: str, backing: Path, point: Path, options: str = "") -> Iterator[Peer]:
    backing.mkdir(exist_ok=True)
    point.mkdir()
    words = ",".join(filter(None, [f"log={point}.log", options]))
    run(*MIRRORFS, "mount", backing, point, "-o", words)
    try:
        yield Peer(name, point, json.loads((point / ".mirrorfs/stats.json").read_text())["pid"])
    finally:
        run(*MIRRORFS, "umount", point, "--lazy")


@contextmanager
def passthrough_ll(
    work: Path, name: str, backing: Path, point: Path, *flags: str
) -> Iterator[Peer]:
    """libfuse's own example, compiled as Debian ships it."""
    program = work / "passthrough_ll"
    if not program.exists():
        require("gcc", "pkg-config")
        for part in ("passthrough_ll.c", "passthrough_helpers.h"):
            (work / part).write_bytes(_example(part))
        flags_of = run("pkg-config", "fuse3", "--cflags", "--libs").split()
        run("gcc", "-O2", work / "passthrough_ll.c", "-o", program, *flags_of)
    backing.mkdir(exist_ok=True)
    options = ",".join([f"source={backing}", *flags])
    with _daemon(name, point, str(program), "-f", "-o", options, str(point)) as peer:
        yield peer


def _example(part: str) -> bytes:
    packed, plain = _EXAMPLES / f"{part}.gz", _EXAMPLES / part
    if packed.exists():
        return gzip.decompress(packed.read_bytes())
    if plain.exists():
        return plain.read_bytes()
    sys.exit(f"{plain} is missing; it comes with the package libfuse3-dev")


@contextmanager
def bindfs(name: str, backing: Path, point: Path) -> Iterator[Peer]:
    """As a user gets it: one thread, extended attributes served."""
    require("bindfs")
    backing.mkdir(exist_ok=True)
    with _daemon(name, point, "bindfs", "-f", str(backing), str(point)) as peer:
        yield peer


@contextmanager
def null(name: str, point: Path) -> Iterator[Peer]:
    """What any file system in pyfuse3 pays at least; in a process of its own, without a backing."""
    with _daemon(name, point, sys.executable, str(_NULL_PROGRAM), str(point)) as peer:
        set_readahead(os.fsencode(point), _NULL_READAHEAD)
        yield peer


@contextmanager
def _daemon(name: str, point: Path, *command: str) -> Iterator[Peer]:
    """A file system that stays in the foreground, from when it is mounted until it has ended."""
    point.mkdir()
    # In a session of its own: a Ctrl-C reaches us alone, and we unmount what we have mounted.
    daemon = subprocess.Popen(command, start_new_session=True)
    try:
        end = time.monotonic() + _MOUNT_SECONDS
        while not point.is_mount():
            if daemon.poll() is not None or time.monotonic() > end:
                sys.exit(f"{name} did not mount: {' '.join(command)}")
            time.sleep(0.02)
        yield Peer(name, point, daemon.pid)
    finally:
        subprocess.run(["umount", "--lazy", "--quiet", point], check=False, start_new_session=True)
        try:
            daemon.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder that is removed at the end."""
    work = parent / f"mirrorfs-bench-{os.getpid()}"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def disk(work: Path, kind: str, size_gib: int) -> Iterator[tuple[Path, Path]]:
    """A new file system on a loop device: where it is mounted, and the device's sector counts."""
    require(f"mkfs.{kind}", "losetup")
    image, point = work / f"{kind}.img", work / kind
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size_gib << 30)
    flag = "-F" if kind == "ext4" else "-f"
    extra = ["-E", "lazy_itable_init=0,lazy_journal_init=0"] if kind == "ext4" else []
    run(f"mkfs.{kind}", "-q", flag, *extra, image)
    device = run("losetup", "--find", "--show", image).strip()
    run("mount", device, point)
    try:
        yield point, Path(f"/sys/block/{Path(device).name}/stat")
    finally:
        run("umount", "--lazy", point)
        subprocess.run(["losetup", "--detach", device], check=False)
        image.unlink()
