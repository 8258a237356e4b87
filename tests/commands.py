"""Commands as a user gives them, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import preloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MIRRORFS = [sys.executable, "-m", "mirrorfs"]
PRELOADED = preloaded.Server()
# Everything is imported before the change of user, who may not be let into the checkout.
_AS_NOBODY = """
import os, sys
import mirrorfs.cli.check, mirrorfs.cli.commands, mirrorfs.cli.demo, mirrorfs.cli.history
import mirrorfs.cli.mount, mirrorfs.cli.stats, mirrorfs.cli.status, mirrorfs.cli.top
import mirrorfs.cli.umount
import mirrorfs.cli.config, mirrorfs.daemon.config_file, mirrorfs.daemon.config_text
import mirrorfs.daemon.launch, mirrorfs.daemon.main_loop
from mirrorfs.cli.main import main
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


def spelled(words: Iterable[object]) -> list[str]:
    """The words of a command: text, paths, numbers, or raw bytes."""
    return [os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in words]


def run(*command: object, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A command with its output as text; fails the test with that output."""
    done = subprocess.run(spelled(command), capture_output=True, text=True, check=False, **kwargs)
    if check and done.returncode:
        pytest.fail(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def mirrorfs(*words: object, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The command of the user."""
    return run(*MIRRORFS, *words, check=check, timeout=60, **kwargs)


def mirrorfs_preloaded(*words: object) -> None:
    """The command without the start of an interpreter; it must succeed."""
    done = PRELOADED.run(*spelled(words))
    if done.returncode:
        pytest.fail(f"{words} ended with {done.returncode}\n{done.stderr}")


def as_nobody(
    *words: object, check: bool = True, under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The command as an ordinary user; wants the fixture `fuse_for_all`. `under` is a command that
    runs it, such as prlimit(1).
    """
    return run(*under, MIRRORFS[0], "-c", _AS_NOBODY, *words, check=check, timeout=60)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as it holds; fails the test if that does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not so within {seconds:.0f} seconds")
        time.sleep(0.01)


def wait_until_it_listens(process: subprocess.Popen[Any]) -> None:
    """Return when a command of ours takes signals itself, no longer the interpreter that starts, or
    when it has ended.
    """

    def listens() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return process.poll() is not None or bool(caught >> (signal.SIGTERM - 1) & 1)

    wait_for(listens)


def is_in_a_call(pid: int, fd: int) -> bool:
    """Whether a process waits in a system call for this descriptor (proc_pid_syscall(5))."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return len(words) > 1 and words[1] == f"{fd:#x}"
