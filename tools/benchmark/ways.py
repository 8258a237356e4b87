"""The tools that copy one image, as a user would call them; and an sshd of our own for scp."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.benchmark import peers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SSHD_SECONDS = 10


class CopyError(Exception):
    """A tool ended with an error; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Way:
    """A shell command, and one that is run before it and not measured.

    {image} is the source, {name} its name, {source} its folder; {folder} and {target} where the
    copy goes; {archive} a tar file that lies beside the source; {ssh} the options for our sshd.
    """

    command: str
    before: str = ""


TOOLS = {
    "rsync -a": Way("rsync -a {image} {folder}/"),
    "rsync -aS": Way("rsync -aS {image} {folder}/"),
    "rsync -a --inplace": Way("rsync -a --inplace {image} {folder}/"),
    "rsync -a --inplace -S": Way("rsync -a --inplace -S {image} {folder}/"),
    "cp": Way("cp {image} {target}"),
    "cp -a": Way("cp -a {image} {target}"),
    "cp --sparse=always": Way("cp --sparse=always {image} {target}"),
    "dd bs=1M": Way("dd if={image} of={target} bs=1M status=none"),
    "scp": Way("scp -q {ssh} {image} {user}@127.0.0.1:{target}"),
    "cat >": Way("cat {image} > {target}"),
    "qemu-img convert": Way("qemu-img convert -f raw -O raw {image} {target}"),
    "tar -x of tar -S": Way(
        "tar -x -f {archive} -C {folder}", "tar -S -c -f {archive} -C {source} {name}"
    ),
    "tar -x": Way("tar -x -f {archive} -C {folder}", "tar -c -f {archive} -C {source} {name}"),
    "install": Way("install -m 0644 {image} {target}"),
}


def needs_sshd(tools: list[str]) -> bool:
    return any("{ssh}" in TOOLS[tool].command for tool in tools)


def prepare(tool: str, image: Path, folder: Path, ssh: str) -> str:
    """Do what comes before the copy. Returns the command that makes it."""
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
    way = TOOLS[tool]
    if way.before:
        perform(way.before.format(**quoted))
    return way.command.format(**quoted, ssh=ssh)


def perform(command: str) -> None:
    """Raises CopyError. `exec` leaves no shell between us and the tool, which would outlive it."""
    done = subprocess.run(
        ["sh", "-c", f"exec {command}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CopyError(lines[-1])


@contextmanager
def sshd(work: Path) -> Iterator[str]:
    """A local sshd with keys of its own; gives the options by which scp reaches it."""
    for name in ("host", "key"):
        peers.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / name)
    os.makedirs("/run/sshd", exist_ok=True)
    port = _free_port()
    config = work / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {work}/host\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {work}/key.pub\nPidFile {work}/sshd.pid\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    with (work / "sshd.log").open("wb") as log:
        daemon = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=log)
    try:
        _wait_for(port)
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        yield shlex.join(["-i", f"{work}/key", "-P", str(port), *options])
    finally:
        daemon.terminate()
        daemon.wait(_SSHD_SECONDS)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait_for(port: int) -> None:
    end = time.monotonic() + _SSHD_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise SystemExit("tools/tooltable: our sshd does not answer") from None
            time.sleep(0.05)
        else:
            return
