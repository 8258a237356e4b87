"""Commands on places and with words that they cannot take, and what they say of them."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.cli import commands
from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, as_nobody, mirrorfs, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["mount", "-o", "remount,ro", "MOUNTPOINT"], ExitCode.NOT_A_MOUNT),
        (["mount", "BACKING", "MOUNTPOINT", "-o", "remount,ro"], ExitCode.NOT_A_MOUNT),
        (["BACKING", "MOUNTPOINT", "-o", "rw,remount"], ExitCode.MOUNT_FAILED),
    ],
)
def test_only_a_mount_can_be_remounted(words: list[str], code: ExitCode) -> None:
    done = mirrorfs(*words, check=False)
    assert done.returncode == code
    assert done.stderr.endswith("/MOUNTPOINT: not a mirrorfs mount; 'mirrorfs stats' lists those "
                                "there are\n")  # fmt: skip


def test_a_remount_changes_what_it_names_alone(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "noexec")
    mirrorfs("mount", "-o", "remount,ro", mirror.path)
    flags = os.statvfs(mirror.path).f_flag
    assert flags & os.ST_RDONLY
    assert flags & os.ST_NOEXEC
    mirrorfs("mount", "-o", "remount,rw", mirror.path)
    assert mirror.write("file", 0, b"data") == 4
    done = mirrorfs("mount", "-o", "remount,history=3", mirror.path, check=False)
    assert done.returncode == ExitCode.USAGE
    assert "option history cannot be changed by remount; unmount it, and mount" in done.stderr


def test_commands_refuse_a_missing_or_empty_place() -> None:
    done = mirrorfs("mount", "/srv", check=False)
    assert (done.returncode, "BACKING MOUNTPOINT" in done.stderr) == (ExitCode.USAGE, True)
    for words in (["mount", "", "/mnt"], ["mount", "/srv", ""], ["umount", ""], ["stats", ""]):
        done = mirrorfs(*words, check=False)
        assert done.returncode == ExitCode.USAGE
        assert "path is empty" in done.stderr


def test_umount_of_the_current_folder(mirror: Mirror) -> None:
    done = mirrorfs("umount", ".", cwd=mirror.path)
    assert done.stderr == ""
    assert not mirror.path.is_mount()


def test_stats_says_why_a_path_has_no_counters(mirror: Mirror, tmp_path: Path) -> None:
    mirror.write("file", 0, b"x")
    for path in (mirror.path / "none", tmp_path / "none"):
        done = mirrorfs("stats", path, check=False)
        assert done.returncode == ExitCode.FAILED
        assert done.stderr == f"mirrorfs: {path}: no such file\n"
    done = mirrorfs("stats", mirror.backing / "file", check=False)
    assert done.returncode == ExitCode.NOT_A_MOUNT
    assert f"'mirrorfs stats {mirror.path}/file'" in done.stderr


@pytest.mark.usefixtures("fuse_for_all")
def test_commands_of_an_ordinary_user_say_what_only_root_may() -> None:
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    point, backing, closed = base / "point", base / "backing", base / "closed"
    for folder in (point, backing, closed):
        folder.mkdir()
    closed.chmod(0o700)
    mirrorfs("mount", backing, point, "-o", f"log={base}/log")
    try:
        for words in (["umount", point], ["umount", "--lazy", point]):
            done = as_nobody(*words, check=False)
            assert done.returncode == ExitCode.FAILED
            assert done.stderr.endswith("mounted by root; only root may unmount it\n")
        done = as_nobody("mount", closed, backing, check=False)
        assert done.returncode == ExitCode.BACKING
        assert "you may not read it; run as its owner or as root" in done.stderr
        done = as_nobody("mount", "/tmp", backing, "-o", "allow_other", check=False)
        assert done.returncode == ExitCode.USAGE
        assert "user_allow_other" in done.stderr
        done = as_nobody("demo", "--folder", closed, check=False)
        assert done.returncode == ExitCode.FAILED
        assert f"{closed}: cannot be written" in done.stderr
    finally:
        mirrorfs("umount", point)
        run("rm", "-r", base)


def test_a_removed_current_folder_is_named(tmp_path: Path) -> None:
    script = f'mkdir {tmp_path}/x && cd {tmp_path}/x && rmdir ../x && {MIRRORFS[0]} -c "$1"'
    code = "import sys; from mirrorfs.cli.main import main; sys.exit(main(['stats', 'x']))"
    done = run("bash", "-c", script, "bash", code, check=False)
    assert done.returncode == ExitCode.FAILED
    assert "current folder has been removed" in done.stderr


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ("rw", {"nosuid", "nodev"}),
        ("suid", {"nodev"}),
        ("suid,dev", set()),
        ("nodev", {"nodev", "nosuid"}),
    ],
)
def test_a_mount_is_nosuid_and_nodev_unless_root_says_otherwise(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], options: str, flags: set[str]
) -> None:
    mirror = mount_mirror(ext4_folder, options)
    found = run("findmnt", "-n", "-o", "VFS-OPTIONS", mirror.path).stdout.strip().split(",")
    assert {"nosuid", "nodev"} & set(found) == flags


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["{backing}", "point"], "mirrorfs"),
        (["./backing", "point"], "mirrorfs"),
        ([".", "../point"], "mirrorfs"),
        (["backing", "point", "-o", "rw"], "mirrorfs"),
        (["-o", "rw", "backing", "point"], "mirrorfs"),
        (["backing", "point", "-orw"], "mirrorfs"),
        (["backing", "point"], "mount.mirrorfs"),
        (["stats", "point"], "mount.fuse.mirrorfs"),
    ],
)
def test_two_places_are_taken_for_the_form_of_mount8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], program: str
) -> None:
    backing = tmp_path / "backing"
    backing.mkdir()
    monkeypatch.chdir(backing if words[0] == "." else tmp_path)
    monkeypatch.setattr(sys, "argv", [f"/usr/sbin/{program}"])
    assert commands.is_mount8([word.format(backing=backing) for word in words])
