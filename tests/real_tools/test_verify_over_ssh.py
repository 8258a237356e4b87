"""`mirrorfs verify HOST:PATH` with a real ssh and sshd."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING

import pytest

from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, mirrorfs, run

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

CHUNK = 1 << 16
NAME = 'it\'s $HOME; `x` "*"\n\\ \xe4'
THERE = shlex.join(MIRRORFS)


@pytest.fixture
def shell(sshd: list[str]) -> str:
    return shlex.join(["ssh", *sshd]).replace("-P", "-p")


def verify(shell: str, *words: object, command: str = THERE) -> CompletedProcess[str]:
    return mirrorfs("verify", "-e", shell, "--remote-command", command, *words, check=False)


def test_a_copy_is_compared_with_another_host(shell: str, ext4_folder: Path) -> None:
    source, target = ext4_folder / NAME, ext4_folder / "target"
    source.mkdir()
    (source / NAME).write_bytes(os.urandom(40 * CHUNK + 5))
    (source / os.fsdecode(b"\xff")).write_bytes(b"x")
    run("cp", "-a", source, target)
    done = verify(shell, f"127.0.0.1:{source}", target)
    assert (done.returncode, done.stdout) == (0, "2 files compared: 2 equal\n")
    done = verify(shell, f"127.0.0.1:{source / NAME}", target)
    assert (done.returncode, done.stdout) == (0, "1 file compared: 1 equal\n")
    with (target / NAME).open("r+b") as file:
        file.seek(7 * CHUNK)
        file.write(b"rotten")
    done = verify(shell, "--json", f"127.0.0.1:{source}", target)
    assert done.returncode == ExitCode.DIFFERENCE
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["ranges"] for one in found if one["state"] == "different"] == [
        [[7 * CHUNK, 8 * CHUNK]]
    ]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/nowhere/mirrorfs", "there is no mirrorfs with the command 'digest'"),
        ("echo Welcome; " + THERE, "no stream of digests that this version knows ('Welcome"),
        ("exit 3;", "127.0.0.1: ended with 3 too early"),
    ],
)
def test_what_answers_otherwise_is_told(
    shell: str, ext4_folder: Path, command: str, text: str
) -> None:
    (ext4_folder / "file").touch()
    path = ext4_folder / "file"
    done = verify(shell, f"127.0.0.1:{path}", path, command=command)
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_not_there_is_told_with_the_host(shell: str, ext4_folder: Path) -> None:
    (ext4_folder / "file").touch()
    done = verify(shell, "127.0.0.1:/nowhere/vm.img", ext4_folder / "file")
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == (
        "mirrorfs: 127.0.0.1: mirrorfs: /nowhere/vm.img: No such file or directory\n"
    )


def test_a_host_that_cannot_be_reached(ext4_folder: Path) -> None:
    (ext4_folder / "file").touch()
    done = verify("ssh -p 1", "127.0.0.1:/x", ext4_folder / "file")
    assert done.returncode == ExitCode.FAILED
    assert "127.0.0.1: cannot be reached: ssh: connect to host 127.0.0.1 port 1" in done.stderr
    done = verify("/nowhere/ssh", "127.0.0.1:/x", ext4_folder / "file")
    assert done.stderr.startswith("mirrorfs: /nowhere/ssh: No such file or directory")
