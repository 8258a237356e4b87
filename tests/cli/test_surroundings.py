"""What else is on a machine: log rotation, a second place of a mount, limits, odd names."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import mounts
from mirrorfs.cli import umount
from mirrorfs.daemon import processes, timed_calls
from mirrorfs.errors import ExitCode, NoAnswerError
from tests.commands import MIRRORFS, mirrorfs, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mounted import Mirror


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    """A mount on ext4 alone: nothing here depends on the file system."""
    return mount_mirror(ext4_folder)


def test_a_rotated_log_goes_on_in_a_new_file(mirror: Mirror) -> None:
    pid, mode = mirror.pid, mirror.log.stat().st_mode
    old = mirror.log.rename(mirror.log.with_suffix(".1"))
    os.kill(pid, signal.SIGHUP)  # as logrotate does for many others
    os.kill(pid, signal.SIGUSR1)
    wait_for(lambda: mirror.log.exists() and "inodes known" in mirror.log.read_text())
    assert "inodes known" not in old.read_text()
    assert mirror.log.stat().st_mode == mode
    assert mirror.pid == pid


def test_umount_of_one_of_two_places_leaves_the_other(mirror: Mirror, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    run("mount", "--bind", mirror.path, second)
    done = mirrorfs("umount", second)
    assert done.stderr == f"mirrorfs: {second}: unmounted; it is still mounted on {mirror.path}\n"
    assert not second.is_mount()
    assert mirror.write("file", 0, b"data") == 4


@contextlib.contextmanager
def container() -> Iterator[int]:
    """A process in a mount namespace of its own, which has a copy of every mount."""
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo begun; exec sleep 60"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_umount_names_a_namespace_that_keeps_the_mount(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(umount, "_HELD_SECONDS", 0.5)
    monkeypatch.chdir("/")
    watch = os.pidfd_open(mirror.pid)
    with container() as pid:
        with pytest.raises(NoAnswerError) as caught:
            umount.run(argparse.Namespace(mount_point=str(mirror.path), lazy=False))
        said = f"{mirror.path}: unmounted here, but still mounted in another mount namespace, that"
        assert str(caught.value).startswith(said)
        assert f"({pid})" in str(caught.value)
        assert not mirror.path.is_mount()
    assert select.select([watch], [], [], 60)[0]
    os.close(watch)


def test_umount_lazy_names_the_process_that_uses_the_mount(mirror: Mirror) -> None:
    mount = mounts.mounted_at(os.fsencode(mirror.path))
    assert mount is not None
    with (mirror.path / "file").open("wb"):
        done = mirrorfs("umount", "--lazy", mirror.path)
        # What is copied into another mount namespace at this moment is named instead.
        assert re.search(r"still (used by|mounted in another .*) .* \(\d+\); process ", done.stderr)
        found = timed_calls.call(processes.detached_users, mount.device.encode())
        assert processes.named(os.getpid()) in found


def test_a_daemon_that_lives_on_leaves_what_came_in_its_place(
    mirror: Mirror, tmp_path: Path
) -> None:
    """Another mount namespace, as of a container, has a copy of the first mount."""
    old = mirror.pid
    backing = tmp_path / "other"
    backing.mkdir()
    with container():
        run("umount", mirror.path)
        mirrorfs("mount", backing, mirror.path, "-o", f"log={tmp_path}/other.log")
        try:
            watch = os.pidfd_open(old)
            os.kill(old, signal.SIGTERM)
            assert select.select([watch], [], [], 60)[0]
            os.close(watch)
            assert mirror.write("file", 0, b"data") == 4
            assert (backing / "file").read_bytes() == b"data"
        finally:
            mirrorfs("umount", mirror.path)


def test_umount_names_a_mount_inside_the_mount(mirror: Mirror) -> None:
    inner = mirror.path / "inner"
    inner.mkdir()
    run("mount", "-t", "tmpfs", "inner", inner)
    try:
        done = mirrorfs("umount", mirror.path, check=False)
        assert done.returncode == ExitCode.BUSY
        assert f"in use by the mount on {inner}; end that" in done.stderr
    finally:
        run("umount", inner)


def test_mount_names_the_process_that_keeps_the_folder_locked(mirror: Mirror) -> None:
    pid = mirror.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        mirrorfs("umount", "--lazy", mirror.path)
        again = mirrorfs("mount", mirror.backing, mirror.path, check=False)
        assert again.returncode == ExitCode.IN_USE
        assert f"({pid}); it is stopped; 'kill -CONT {pid}' lets it go on" in again.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    mirror.mount()
    with (mirror.path / "file").open("wb"):
        pid = mirror.pid
        run("umount", "--lazy", mirror.path)
        again = mirrorfs("mount", mirror.backing, mirror.path, check=False)
        assert f"({pid}); if that is a mirrorfs which was unmounted" in again.stderr
    mirror.mount()


@pytest.mark.parametrize("name", [b"odd\xff", b"two\nlines", b"plain%41"])
def test_a_name_of_any_bytes_fits_on_one_line_and_into_json(
    ext4_folder: Path, tmp_path: Path, name: bytes
) -> None:
    backing = os.path.join(os.fsencode(ext4_folder), name)
    os.mkdir(backing)
    point = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    os.mkdir(point)
    mirrorfs("mount", os.fsdecode(backing), point, "-o", f"log={tmp_path}/log")
    try:
        with open(f"{point}/file", "wb") as file:
            file.write(b"data")
        whole = json.loads(mirrorfs("stats", "--json", point).stdout)
        one = json.loads(mirrorfs("stats", "--json", f"{point}/file").stdout)
        shown = {b"odd\xff": "odd%FF"}.get(name, name.decode(errors="replace"))
        assert whole["mount_point"] == f"{tmp_path}/{shown}"
        assert whole["backing"] == f"{ext4_folder}/{shown}"
        assert one["file"] == f"{tmp_path}/{shown}/file"
        (refused,) = mirrorfs("mount", backing, point, check=False).stderr.splitlines()
        assert "a mirrorfs is mounted here already" in refused
    finally:
        mirrorfs("umount", point)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("ulimit -n 8", "only 8 files may be open at once here; allow 64 (ulimit -Hn)"),
        ("mount -t tmpfs none /dev", "/dev/null: No such file or directory"),
    ],
)
def test_mount_names_the_limit_or_device_that_it_misses(
    tmp_path: Path, script: str, reason: str
) -> None:
    words = f"{' '.join(MIRRORFS)} mount {tmp_path} {tmp_path}"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"{script}; {words}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == f"mirrorfs: {reason}\n"
