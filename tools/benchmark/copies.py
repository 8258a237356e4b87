"""An image, what a night leaves of it, the tools that copy it, and what one copy costs."""

import getpass
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mirrorfs.cli import demo_image
from tools.benchmark import machine
from tools.benchmark.contenders import Mounted
from tools.benchmark.machine import Disk, run, say

FIRST, CHANGED, UNCHANGED = "first copy", "second night", "unchanged"
NIGHTS = (FIRST, CHANGED, UNCHANGED)
BLOCK = 4096
# Shell commands. {image} is the source; {folder} and {target} where the copy goes; {archive} a tar
# file beside the source, made before and not measured; {ssh} the options for our own sshd.
TOOLS = {
    "rsync -a": "rsync -a {image} {folder}/",
    "rsync -aS": "rsync -aS {image} {folder}/",
    "rsync -a --inplace": "rsync -a --inplace {image} {folder}/",
    "rsync -a --inplace -S": "rsync -a --inplace -S {image} {folder}/",
    "cp": "cp {image} {target}",
    "cp -a": "cp -a {image} {target}",
    "cp --sparse=always": "cp --sparse=always {image} {target}",
    "dd bs=1M": "dd if={image} of={target} bs=1M status=none",
    "scp": "scp -q {ssh} {image} {user}@127.0.0.1:{target}",
    "cat >": "cat {image} > {target}",
    "qemu-img convert": "qemu-img convert -f raw -O raw {image} {target}",
    "tar -x of tar -S": "tar -x -f {archive} -C {folder}",
    "tar -x": "tar -x -f {archive} -C {folder}",
    "install": "install -m 0644 {image} {target}",
}
# Write into the file that is there; the second sends nothing of an unchanged file and sets its
# times: what the file system itself costs.
TOOLS_IN_PLACE = {
    "rsync --inplace": TOOLS["rsync -a --inplace"],
    "rsync --inplace --no-whole-file": "rsync -a --inplace --no-whole-file {image} {folder}/",
    "rsync -S --inplace --no-whole-file": "rsync -aS --inplace --no-whole-file {image} {folder}/",
    "dd conv=notrunc": "dd if={image} of={target} bs=1M conv=notrunc status=none",
}


@dataclass(frozen=True, slots=True)
class Images:
    """The image of the first night and that of the second, which has the same name.

    `changed_bytes` lie in blocks that differ and are not zero in the second: the least to write.
    """

    first: Path
    second: Path
    image_bytes: int
    allocated_bytes: int
    changed_bytes: int

    @property
    def data(self) -> dict[str, int]:
        """For JSON."""
        sizes = ("image_bytes", "allocated_bytes", "changed_bytes")
        return {name: getattr(self, name) for name in sizes}

    def of(self, night: str) -> Path:
        """The source of a night's copy, with a time that keeps rsync from skipping it."""
        if night == UNCHANGED:
            set_later(self.second)
        return self.first if night == FIRST else self.second


def make(
    work: Path,
    content_bytes: int = demo_image.CONTENT_BYTES,
    apparent_bytes: int = demo_image.APPARENT_BYTES,
    percent: float = 1.0,
) -> Images:
    """The demo image, and the same after a night that has changed `percent` of its data."""
    first, second = (work / name / "vm.img" for name in ("first", "second"))
    for image in (first, second):
        image.parent.mkdir()
    say("making the image and what a night leaves of it")
    made = work / "vm.img"
    names = demo_image.build(made, work, content_bytes, apparent_bytes)
    # mkfs preallocates its journal, which would count as allocated in the source alone.
    run("cp", "--sparse=always", made, first)
    made.unlink()
    run("cp", "--sparse=always", first, second)
    demo_image.change(second, names, percent)
    set_later(second)
    os.sync()  # delayed allocation would not count
    changed = _changed_blocks(first, second) * BLOCK
    return Images(first, second, apparent_bytes, allocated_bytes(first), changed)


def set_later(image: Path) -> None:
    """Two seconds on: rsync compares whole seconds, and two nights here may lie within one."""
    then = image.stat().st_mtime_ns + 2_000_000_000
    os.utime(image, ns=(then, then))


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def is_equal(one: Path, two: Path) -> bool:
    return not subprocess.run(["cmp", "-s", one, two], check=False).returncode


def _changed_blocks(old: Path, new: Path) -> int:
    count = 0
    with old.open("rb") as one, new.open("rb") as two:
        while after := two.read(BLOCK):
            count += one.read(BLOCK) != after and any(after)
    return count


class CopyError(Exception):
    """A tool failed, or its copy is not equal; the text says which."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost until all of it was on the disk: `device_bytes` were written to the
    device, `read_bytes` read from it. `counted` is what the counters of mirrorfs gained, empty
    without it, and `allocated_bytes` the size of a copy below.
    """

    seconds: float
    synced_seconds: float
    device_bytes: int
    counted: dict[str, int]
    allocated_bytes: int = 0
    read_bytes: int = 0


def cost(disk: Disk, mounted: Mounted, act: Callable[[], object]) -> Cost:
    disk.settle()
    counters, (read, written) = mounted.counters(), disk.moved_bytes()
    begun = time.perf_counter()
    act()
    seconds = time.perf_counter() - begun
    run("sync", "-f", disk.point)
    synced_seconds = time.perf_counter() - begun
    disk.settle()
    counted = {name: now - counters[name] for name, now in mounted.counters().items()}
    read_now, written_now = disk.moved_bytes()
    device_bytes, read_bytes = written_now - written, read_now - read
    return Cost(seconds, synced_seconds, device_bytes, counted, read_bytes=read_bytes)


def measured(
    disk: Disk, mounted: Mounted, tool: str, image: Path, ssh: str = "", is_cold: bool = False
) -> Cost:
    """Copy an image with a tool, and compare, through the mount and below. Raises CopyError.

    Cold drops the copy of the last night from the page cache before it, and keeps the source there.
    """
    command = _prepared(tool, image, mounted.path, ssh)
    targets = [folder / image.name for folder in (mounted.path, mounted.backing)]
    if is_cold:
        machine.read_through(image)
        machine.make_cold(*targets)
        machine.require_cold(*targets)
    found = cost(disk, mounted, lambda: perform(command))
    if not all(is_equal(image, target) for target in targets):
        raise CopyError("the copy is not equal")
    return replace(found, allocated_bytes=allocated_bytes(targets[-1]))


def _prepared(tool: str, image: Path, folder: Path, ssh: str) -> str:
    """The command that makes the copy; what comes before it is done."""
    words = {
        "image": image,
        "folder": folder,
        "target": folder / image.name,
        "archive": image.parent / "image.tar",
        "user": getpass.getuser(),
    }
    quoted = {name: shlex.quote(str(value)) for name, value in words.items()}
    if tool.startswith("tar "):
        sparse = ["-S"] if tool.endswith("-S") else []
        run("tar", *sparse, "-c", "-f", image.parent / "image.tar", "-C", image.parent, image.name)
    return (TOOLS | TOOLS_IN_PLACE)[tool].format(**quoted, ssh=ssh)


def perform(command: str) -> None:
    """Run it by a shell. Raises CopyError with what it said if it fails."""
    # `exec` leaves no shell between us and the tool, which would outlive it.
    words = ["sh", "-c", f"exec {command}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CopyError(f"{command}: {done.stderr.strip() or done.returncode}")


@contextmanager
def sshd(work: Path) -> Iterator[str]:
    """A local sshd with keys of its own; gives the options by which scp reaches it."""
    for name in ("host", "key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / name)
    os.makedirs("/run/sshd", exist_ok=True)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
    config = work / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {work}/host\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {work}/key.pub\nPidFile {work}/sshd.pid\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    with machine.daemon("/usr/sbin/sshd", "-D", "-E", work / "sshd.log", "-f", config) as process:
        try:
            # The first copy may come before sshd listens.
            options = ["ConnectionAttempts=9", "StrictHostKeyChecking=no"]
            options += ["UserKnownHostsFile=/dev/null"]
            yield shlex.join(["-i", f"{work}/key", "-P", str(port), *(f"-o{o}" for o in options)])
        finally:
            process.terminate()
