"""Servers and backup programs whose folder is the mount, with the settings of docs/tools.md."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
SLACK = 128 << 10
FLAGS = ("-a", "--inplace", "--no-whole-file")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """16 MiB with 4 MiB of data in it."""
    path = tmp_path / "source/vm.img"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(os.urandom(2 * MIB))
        file.seek(9 * MIB)
        file.write(os.urandom(2 * MIB))
        file.truncate(16 * MIB)
    return path


def change(image: Path) -> None:
    """Change 1 MiB, and the time by more than the second that rsync compares."""
    with image.open("r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(MIB))
    os.utime(image, (1e9, 1e9))


def assert_copied(mirror: Mirror, image: Path, name: str) -> None:
    """The copy is equal, and as sparse."""
    assert mirror.read(name) == image.read_bytes()
    assert (mirror.backing / name).stat().st_blocks * 512 <= 5 * MIB + SLACK


def remote_shell(folder: Path, command: str) -> Path:
    """A program for `rsync -e` that runs `command` here; $1 is the host, the rest the words."""
    path = folder / "remote-shell"
    path.write_text(f"#!/bin/sh\nshift\n{command}\n")
    path.chmod(0o755)
    return path


def copy_twice(mirror: Mirror, image: Path, copy: Callable[[], object], name: str) -> None:
    """The second copy, after a change, writes only that."""
    copy()
    assert_copied(mirror, image, name)
    before = mirror.counters().written_bytes
    change(image)
    copy()
    assert_copied(mirror, image, name)
    assert mirror.counters().written_bytes - before == MIB


def test_rsync_daemon_copies_only_what_changed(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], image: Path, tmp_path: Path
) -> None:
    mirror = mount_mirror(ext4_folder)
    config = tmp_path / "rsyncd.conf"
    config.write_text(
        "uid = root\ngid = root\nuse chroot = no\nread only = no\n"
        f"log file = {tmp_path}/rsyncd.log\n"
        f"[mirror]\npath = {mirror.path}\nexclude = /.mirrorfs\n"
    )
    shell = remote_shell(tmp_path, f"exec rsync --server --daemon --config={config} .")
    copy_twice(
        mirror, image, lambda: run("rsync", *FLAGS, "-e", shell, image, "host::mirror/"), "vm.img"
    )
    shown = run("rsync", "-e", shell, "host::mirror/.mirrorfs/", check=False)
    assert shown.returncode != 0
    assert "stats" not in shown.stdout


def test_rrsync_copies_only_what_changed(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], image: Path, tmp_path: Path
) -> None:
    mirror = mount_mirror(ext4_folder)
    shell = remote_shell(tmp_path, f'SSH_ORIGINAL_COMMAND="$*" exec rrsync {mirror.path}')
    copy_twice(mirror, image, lambda: run("rsync", *FLAGS, "-e", shell, image, "host:"), "vm.img")


def test_rclone_copies_only_what_changed(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], image: Path
) -> None:
    mirror = mount_mirror(ext4_folder)
    copy = ("rclone", "copy", "--quiet", "--config=", "--local-no-preallocate")
    copy_twice(mirror, image, lambda: run(*copy, image.parent, mirror.path), "vm.img")


def test_restic_restores_only_what_changed(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], image: Path, tmp_path: Path
) -> None:
    """One before 0.15, which has no --sparse, empties a file and writes its parts in any order: its
    copies are sparse, and that is all.
    """
    mirror = mount_mirror(ext4_folder, "preallocate=ignore", noisy=True)
    restic = ("restic", "--quiet", f"--repo={tmp_path}/repository", "--no-cache")
    environment = {**os.environ, "RESTIC_PASSWORD": "x"}
    knows_sparse = "--sparse" in run("restic", "restore", "--help").stdout
    flags = ("--sparse",) if knows_sparse else ()
    run(*restic, "init", env=environment)

    def restore() -> None:
        run(*restic, "backup", image, env=environment)
        run(*restic, "restore", "latest", *flags, "--target", mirror.path, env=environment)

    name = str(image).lstrip("/")
    if knows_sparse:
        copy_twice(mirror, image, restore, name)
    else:
        restore()
        assert_copied(mirror, image, name)
        change(image)
        restore()
        assert_copied(mirror, image, name)
