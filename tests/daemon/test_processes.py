"""Processes that serve or hold a mount, found in /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import mounts
from mirrorfs.daemon import processes, timed_calls
from tests.commands import run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_PROCESS = 1 << 22  # above pid_max


@contextlib.contextmanager
def running(*command: str) -> Iterator[int]:
    """A process that has done what `command` does before it prints a line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def python(code: str, *words: str | Path) -> tuple[str, ...]:
    ending = "; print(flush=True); sys.stdin.read()"
    return (sys.executable, "-c", f"import mmap, os, sys, fcntl; {code}{ending}", *map(str, words))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[mounts.Mount]:
    point = tmp_path / "point"
    point.mkdir()
    run("mount", "-t", "tmpfs", "none", point)
    (point / "file").write_bytes(b"content")
    found = mounts.mounted_at(os.fsencode(point))
    assert found is not None
    yield found
    run("umount", "--lazy", point, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "file = open(sys.argv[1] + '/file')",
        "os.chdir(sys.argv[1])",
        "fd = os.open(sys.argv[1] + '/file', 0); m = mmap.mmap(fd, 0, prot=1); os.close(fd)",
    ],
    ids=["an open file", "the current folder", "a mapping"],
)
def test_holders_are_named_by_what_they_hold(mount: mounts.Mount, code: str) -> None:
    point = os.fsdecode(mount.path)
    assert processes.holders(mount) == []
    with running(*python(code, point)) as pid:
        assert processes.holders(mount) == [processes.named(pid)]
        assert processes.named(pid).endswith(f" ({pid})")


def test_a_file_in_the_folder_below_a_mount_holds_nothing(tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    (point / "file").write_bytes(b"content")
    with running(*python("file = open(sys.argv[1] + '/file')", point)):
        run("mount", "-t", "tmpfs", "none", point)
        mount = mounts.mounted_at(os.fsencode(point))
        assert mount is not None
        assert processes.holders(mount) == []
        run("umount", point)


def test_a_mount_in_another_namespace_is_found(mount: mounts.Mount) -> None:
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo begun; read line")
    before = processes.other_namespaces(mount.device)  # to which a shared mount has propagated
    with running(*words) as pid:
        found = processes.other_namespaces(mount.device)
        assert set(found) - set(before) == {processes.named(pid)}


def test_users_of_a_mount_that_is_in_no_tree_are_found(mount: mounts.Mount) -> None:
    point, device = os.fsdecode(mount.path), mount.device.encode()
    with running(*python("file = open(sys.argv[1] + '/file')", point)) as pid:
        assert timed_calls.call(processes.detached_users, device) == []
        run("umount", "--lazy", point)
        assert timed_calls.call(processes.detached_users, device) == [processes.named(pid)]


def test_the_holder_of_a_lock_is_found(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    assert processes.lock_holder(folder) is None
    with running(*python("fd = os.open(sys.argv[1], 0)", tmp_path)):
        assert processes.lock_holder(folder) is None
    code = "fd = os.open(sys.argv[1], 0); fcntl.flock(fd, fcntl.LOCK_EX)"
    with running(*python(code, tmp_path)) as pid:
        assert processes.lock_holder(folder) == pid


def test_a_stopped_process_is_known(tmp_path: Path) -> None:
    with running(*python("pass")) as pid:
        assert not processes.is_stopped(pid)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: processes.is_stopped(pid))
    assert not processes.is_stopped(NO_PROCESS)


def test_a_process_is_mirrorfs_by_its_command_line() -> None:
    with running(*python("pass")) as pid:
        assert not processes.is_mirrorfs(pid)
    with running(*python("pass", "-m", "mirrorfs")) as pid:
        assert processes.is_mirrorfs(pid)
    assert not processes.is_mirrorfs(NO_PROCESS)


def test_a_process_that_has_ended_has_a_name_all_the_same() -> None:
    assert processes.named(NO_PROCESS) == f"a process ({NO_PROCESS})"
