"""A server that real tools copy through; an image, and a mount in which sessions end soon."""

from __future__ import annotations

import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.commands import run, wait_for
from tests.real_tools.noted import MIB, SIZE, age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror


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


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 MiB, every second MiB of which is data; older than a minute, so that rsync, which
    compares times by the second, can tell it from a copy that was cut off.
    """
    path = tmp_path_factory.mktemp("images") / "vm.img"
    chance = random.Random(3)
    with path.open("wb") as file:
        for index in range(0, SIZE // MIB, 2):
            file.seek(index * MIB)
            file.write(chance.randbytes(MIB))
        file.truncate(SIZE)
    path.chmod(0o640)
    age(path, 3600)
    return path


@pytest.fixture
def quick(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """A mount in which a session ends soon after its last writer."""
    return mount_mirror(ext4_folder, "session_quiet=0")
