"""A server that real tools copy through."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.commands import run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[list[str]]:
    """A local sshd with keys of its own; gives the options that reach it."""
    host_key, key = tmp_path / "host", tmp_path / "key"
    for path in (host_key, key):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    authorized = tmp_path / "authorized"
    authorized.write_text((tmp_path / "key.pub").read_text())
    os.makedirs("/run/sshd", exist_ok=True)
    config = tmp_path / "sshd_config"
    port = 20000 + os.getpid() % 20000
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {authorized}\nPidFile {tmp_path}/pid\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    daemon = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=subprocess.DEVNULL
    )
    options = [
        "-i",
        str(key),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    reach = ("ssh", "-q", "-p", port, *options, "127.0.0.1", "true")
    wait_for(lambda: run(*reach, check=False).returncode == 0)
    yield ["-q", "-P", str(port), *options]
    daemon.terminate()
    daemon.wait()
