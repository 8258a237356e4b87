"""What is measured: the plain folder, passthrough_ll, and mirrorfs with its rules on and off."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator

MIRRORFS = [sys.executable, "-m", "mirrorfs"]
_EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Peer:
    """A folder to measure in; `pid` is that of its daemon, 0 for none."""

    name: str
    path: Path
    pid: int = 0

    def cpu_seconds(self) -> float:
        """User and system time of the daemon so far."""
        if not self.pid:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_mib(self) -> float:
        """Largest resident size of the daemon so far."""
        return memory_mib(self.pid, "VmHWM") if self.pid else 0.0


def memory_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


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
        for part in ("passthrough_ll.c", "passthrough_helpers.h"):
            packed = _EXAMPLES / f"{part}.gz"
            source = gzip.decompress(packed.read_bytes()) if packed.exists() else None
            (work / part).write_bytes(source or (_EXAMPLES / part).read_bytes())
        flags_of = run("pkg-config", "fuse3", "--cflags", "--libs").split()
        run("gcc", "-O2", work / "passthrough_ll.c", "-o", program, *flags_of)
    backing.mkdir(exist_ok=True)
    point.mkdir()
    options = ",".join([f"source={backing}", *flags])
    daemon = subprocess.Popen([program, "-f", "-o", options, point])
    while not point.is_mount():
        time.sleep(0.02)
    try:
        yield Peer(name, point, daemon.pid)
    finally:
        subprocess.run(["umount", "--lazy", point], check=False)
        daemon.wait(10)


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
