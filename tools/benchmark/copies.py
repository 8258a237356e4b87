"""The tools that copy an image, as a user would call them, and what one copy costs."""

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

from tools.benchmark import images, machine
from tools.benchmark.contenders import Mounted
from tools.benchmark.machine import Disk

# Shell commands. {image} is the source, {name} its name, {source} its folder; {folder} and {target}
# where the copy goes; {archive} a tar file beside the source; {ssh} the options for our own sshd.
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
# What is run before a copy, and not measured.
_BEFORE = {
    "tar -x of tar -S": "tar -S -c -f {archive} -C {source} {name}",
    "tar -x": "tar -c -f {archive} -C {source} {name}",
}


class CopyError(Exception):
    """A tool failed, or its copy is not equal; the text says which."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost until all of it was on the disk; `counted` is what the counters of
    mirrorfs gained, empty without it, and `allocated_bytes` the size of a copy below.
    """

    seconds: float
    synced_seconds: float
    device_bytes: int
    counted: dict[str, int]
    allocated_bytes: int = 0


def cost(disk: Disk, mounted: Mounted, act: Callable[[], object]) -> Cost:
    disk.settle()
    counters, written = mounted.counters(), disk.moved_bytes()[1]
    begun = time.perf_counter()
    act()
    seconds = time.perf_counter() - begun
    machine.run("sync", "-f", disk.point)
    synced_seconds = time.perf_counter() - begun
    disk.settle()
    counted = {name: now - counters[name] for name, now in mounted.counters().items()}
    return Cost(seconds, synced_seconds, disk.moved_bytes()[1] - written, counted)


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
    found = cost(disk, mounted, lambda: _perform(command))
    if not all(images.is_equal(image, target) for target in targets):
        raise CopyError("the copy is not equal")
    return replace(found, allocated_bytes=images.allocated_bytes(targets[-1]))


def copy(disk: Disk, mounted: Mounted, tool: str, image: Path) -> None:
    """A copy that is not measured, and is on the disk afterwards. Raises CopyError."""
    _perform(_prepared(tool, image, mounted.path, ssh=""))
    machine.run("sync", "-f", disk.point)


def _prepared(tool: str, image: Path, folder: Path, ssh: str) -> str:
    """The command that makes the copy; what comes before it is done."""
    words = {
        "image": image,
        "name": image.name,
        "source": image.parent,
        "folder": folder,
        "target": folder / image.name,
        "archive": image.parent / "image.tar",
        "user": getpass.getuser(),
    }
    quoted = {name: shlex.quote(str(value)) for name, value in words.items()}
    if tool in _BEFORE:
        _perform(_BEFORE[tool].format(**quoted))
    return (TOOLS | TOOLS_IN_PLACE)[tool].format(**quoted, ssh=ssh)


def _perform(command: str) -> None:
    # `exec` leaves no shell between us and the tool, which would outlive it.
    words = ["sh", "-c", f"exec {command}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CopyError(f"{command}: {done.stderr.strip() or done.returncode}")


@contextmanager
def sshd(work: Path) -> Iterator[str]:
    """A local sshd with keys of its own; gives the options by which scp reaches it."""
    for name in ("host", "key"):
        machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / name)
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
