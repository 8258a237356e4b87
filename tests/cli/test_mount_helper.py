"""mount(8) itself, with the helpers in /sbin: types, fstab, remount, exit codes, other users."""

from __future__ import annotations

import os
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.cli.mount_helper import MountCode
from tests.mount8 import HELPERS, Mount8

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
TYPES = ("mirrorfs", "fuse.mirrorfs")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Mount8]:
    machine = Mount8(tmp_path)
    yield machine
    machine.stop()


def mount(machine: Mount8, options: str = "", fs_type: str = "mirrorfs") -> None:
    options = f"log={machine.log}" + (f",{options}" if options else "")
    machine.run("mount", "-t", fs_type, machine.backing, machine.point, "-o", options)
    assert machine.is_mounted()


@pytest.mark.parametrize("fs_type", TYPES)
def test_a_mount_by_its_type(machine: Mount8, fs_type: str) -> None:
    mount(machine, fs_type=fs_type)
    assert {"rw", "nosuid", "nodev"} <= machine.flags()
    machine.inside(machine.point / "file").write_text("text")
    assert machine.inside(machine.backing / "file").read_text() == "text"
    machine.run("umount", machine.point)
    assert not machine.is_mounted()


def test_without_its_own_helper_fuse_has_the_command(machine: Mount8) -> None:
    machine.inside("/sbin/mount.fuse.mirrorfs").unlink()
    mount(machine, "nosuid", fs_type="fuse.mirrorfs")
    machine.run("mount", "-o", "remount,ro", machine.point)
    assert "ro" in machine.flags()


@pytest.mark.parametrize("fs_type", TYPES)
def test_mount_all_twice(machine: Mount8, fs_type: str) -> None:
    machine.fstab(
        fs_type,
        "defaults,nofail,_netdev,comment=backup,x-systemd.requires-mounts-for=/,"
        f"X-mount.mkdir,log={machine.log}",
    )
    machine.run("mount", "-a")
    assert machine.is_mounted()
    pid = machine.run("mirrorfs", "stats", "--json", machine.point).stdout
    again = machine.run("mount", "-a")
    assert (again.stdout, again.stderr) == ("", "")
    assert machine.run("mirrorfs", "stats", "--json", machine.point).stdout == pid
    machine.run("umount", "-R", machine.point)
    assert not machine.is_mounted()


def test_mount_all_twice_with_a_name_that_the_mount_table_spells_otherwise(machine: Mount8) -> None:
    machine.backing = machine.folder / "kä,se\\"
    machine.inside(machine.backing).mkdir()
    machine.fstab("mirrorfs", f"log={machine.log}")
    for _ in range(2):
        done = machine.run("mount", "-a")
        assert (done.stdout, done.stderr) == ("", "")
    assert len(machine.run("findmnt", "-no", "TARGET", machine.point).stdout.splitlines()) == 1


@pytest.mark.parametrize("fs_type", TYPES)
def test_verify_says_no_more_than_of_any_fuse(machine: Mount8, fs_type: str) -> None:
    """It warns of each type that the kernel does not know, and of folders as sources."""
    said = []
    for one in (fs_type, "fuse.bindfs"):
        machine.fstab(one, "nofail,history=30,x-systemd.requires-mounts-for=/")
        done = machine.run("findmnt", "--verify", "--verbose")
        assert "0 parse errors, 0 errors" in done.stdout + done.stderr
        said.append((done.stdout + done.stderr).replace(f"] {one} ", "] TYPE "))
    assert "[W] TYPE seems" in said[0]
    assert said[0] == said[1]


def test_a_missing_backing_folder_is_told_with_nofail_too(machine: Mount8) -> None:
    """A job that mounts must not take the bare mount point for the mount."""
    machine.backing = machine.folder / "missing"
    machine.fstab("mirrorfs", "nofail")
    for words in (("mount", "-a"), ("mount", machine.point)):
        code, said = machine.code(*words)
        assert code == MountCode.FAILED
        assert said == (
            f"mirrorfs: {machine.backing}: no such folder; make it first, or correct the path\n"
        )


def test_noauto_is_mounted_by_name_alone(machine: Mount8) -> None:
    machine.fstab("mirrorfs", f"noauto,log={machine.log}")
    machine.run("mount", "-a")
    assert not machine.is_mounted()
    machine.run("mount", machine.point)
    assert machine.is_mounted()


def test_options_come_from_the_configuration_file_too(machine: Mount8) -> None:
    machine.put(
        "/etc/mirrorfs.toml",
        f'[mount."{machine.point}"]\nbacking = "{machine.backing}"\nlog = "{machine.log}"\n'
        "history = 30\nro = true\n",
        0o600,
    )
    machine.fstab("mirrorfs", "defaults,history=31")
    machine.run("mount", "-a")
    assert "ro" in machine.flags()  # the `rw` of mount(8) is not meant
    shown = machine.run("mirrorfs", "config", machine.point).stdout.split("\n")
    assert [line.split() for line in shown if "history" in line] == [
        ["history", "31", "command", "line"]
    ]


def test_read_only_and_back(machine: Mount8) -> None:
    mount(machine, "noexec")
    machine.inside(machine.point / "file").write_text("text")
    machine.run("mount", "-o", "remount,ro", machine.point)
    assert {"ro", "nosuid", "nodev", "noexec"} <= machine.flags()
    with pytest.raises(OSError, match="Read-only file system"):
        machine.inside(machine.point / "file").write_text("more")
    assert machine.inside(machine.point / "file").read_text() == "text"
    machine.run("mount", "-o", "remount,rw,exec", machine.point)
    assert "rw" in machine.flags()
    assert not {"ro", "noexec"} & machine.flags()
    machine.inside(machine.point / "file").write_text("more")


def test_read_only_by_a_line_in_fstab(machine: Mount8) -> None:
    machine.fstab("mirrorfs", f"nofail,_netdev,history=30,log={machine.log}")
    machine.run("mount", "-a")
    machine.run("mount", "-o", "remount,ro", machine.point)
    assert "ro" in machine.flags()
    machine.run("mount", "-o", "remount", machine.point)
    assert "rw" in machine.flags()


def test_a_remount_is_refused_with_the_reason(machine: Mount8) -> None:
    mount(machine)
    code, said = machine.code("mount", "-o", "remount,block=64k", machine.point)
    assert code == MountCode.USAGE
    assert f"{machine.point}: option block cannot be changed by remount; unmount it" in said
    with machine.inside(machine.point / "file").open("w"):
        code, said = machine.code("mount", "-o", "remount,ro", machine.point)
    assert code == MountCode.FAILED
    assert f"{machine.point}: files are open for writing; it is in use by " in said
    assert f"({os.getpid()})" in said
    machine.run("umount", machine.point)
    code, said = machine.code("mount.mirrorfs", machine.backing, machine.point, "-o", "remount,ro")
    assert code == MountCode.FAILED
    assert f"{machine.point}: not a mirrorfs mount" in said


def test_what_was_mounted_read_only_stays_so(machine: Mount8) -> None:
    mount(machine, "ro")
    code, said = machine.code("mount", "-o", "remount,rw", machine.point)
    assert code == MountCode.USAGE
    assert f"{machine.point}: was mounted read-only, so its daemon is not prepared to" in said
    assert "ro" in machine.flags()
    machine.run("mount", "-o", "remount,ro,noexec", machine.point)
    assert {"ro", "noexec"} <= machine.flags()


def test_exit_codes_are_those_of_mount8(machine: Mount8) -> None:
    places = (machine.backing, machine.point)
    for words, expected, text in (
        ((machine.backing,), MountCode.USAGE, "the following arguments are required: DIR"),
        ((*places, "-x"), MountCode.USAGE, "unrecognized arguments: -x"),
        ((*places, "-o", "rw,zerso"), MountCode.USAGE, "did you mean 'zeros'?"),
        ((*places, "-N", "/no/such"), MountCode.USAGE, "-N /no/such: No such file"),
        (("/no/such", machine.point), MountCode.FAILED, "/no/such: no such folder; make it"),
        ((machine.backing, "/no/such"), MountCode.FAILED, "/no/such: no such folder; make the"),
    ):
        code, said = machine.code("mount.mirrorfs", *words)
        assert code == expected, words
        assert text in said
        assert len(said.splitlines()) == 1
    machine.put("/etc/mirrorfs.toml", "[default]\n")
    code, said = machine.code("mount", "-t", "mirrorfs", *places)
    assert code == MountCode.USAGE
    assert "/etc/mirrorfs.toml: line 1: unknown key 'default'" in said
    machine.inside("/etc/mirrorfs.toml").unlink()
    without = 'mount -t tmpfs t /dev && mknod /dev/null c 1 3 && exec "$@"'
    code, said = machine.code("sh", "-c", without, "sh", "mount.mirrorfs",
                              *places)  # fmt: skip
    assert code == MountCode.SYSTEM
    assert "/dev/fuse is missing" in said
    assert not machine.is_mounted()


def test_fake_looks_at_all_and_mounts_nothing(machine: Mount8) -> None:
    words = ("mount", "-f", "-v", "-n", "-t", "mirrorfs")
    code, said = machine.code(*words, machine.backing, machine.point, "-o", "history=3")
    assert (code, said) == (
        MountCode.DONE,
        f"mirrorfs: {machine.backing} on {machine.point}: history=3\n",
    )
    assert not machine.is_mounted()
    assert not list(machine.inside(machine.backing).iterdir())
    assert machine.code(*words, machine.backing, machine.point, "-o", "x")[0] == MountCode.USAGE
    assert machine.code(*words, "/etc/fstab", machine.point)[0] == MountCode.FAILED


def test_sloppy_passes_over_what_is_unknown(machine: Mount8) -> None:
    options = f"zerso=x,history=3,log={machine.log}"
    done = machine.run("mount", "-s", "-t", "mirrorfs", machine.backing, machine.point, "-o",
                       options)  # fmt: skip
    assert "unknown option 'zerso'; did you mean 'zeros'?" in done.stderr
    assert machine.is_mounted()
    assert machine.code("mount", "-s", "-o", "remount,zerso=x,history=4", machine.point)[0] == 1


def test_into_another_mount_namespace(machine: Mount8, tmp_path: Path) -> None:
    other = machine.run(
        "sh", "-c", "unshare --mount --propagation private sleep 60 >/dev/null 2>&1 & echo $!"
    ).stdout.strip()
    mounted = ["nsenter", f"--target={other}", "--mount", "findmnt", "-no", "FSTYPE", machine.point]
    try:
        for words in (
            ("mount", "-N", other, "-t", "mirrorfs", machine.backing, machine.point),
            ("mount.mirrorfs", machine.backing, machine.point, "-N", f"/proc/{other}/ns/mnt"),
        ):
            machine.run(*words, "-o", f"log={machine.log}")
            assert machine.run(*mounted).stdout == "fuse.mirrorfs\n"
            assert not machine.is_mounted()
            machine.run("nsenter", f"--target={other}", "--mount", "umount", machine.point)
    finally:
        machine.run("kill", other)


def test_a_user_may_mount_what_fstab_lets_them(machine: Mount8, fuse_for_all: None) -> None:
    machine.fstab("mirrorfs", f"user,noauto,log={machine.folder}/mirror-log/log")
    (machine.inside(machine.folder / "mirror-log")).mkdir()
    for path in (machine.backing, machine.point, machine.folder / "mirror-log"):
        os.chown(machine.inside(path), NOBODY, NOBODY)
    for folder in list(machine.folder.parents)[:-1]:
        folder.chmod(folder.stat().st_mode | 0o055)
    machine.run("mount", machine.point, user=NOBODY)
    assert {"nosuid", "nodev", "noexec", f"user_id={NOBODY}"} <= machine.flags()
    code, said = machine.code("mount", "-o", "remount,ro", machine.point, user=NOBODY)
    assert code != MountCode.DONE
    assert "root" in said or "permission" in said.lower()
    machine.run("umount", machine.point, user=NOBODY)
    assert not machine.is_mounted()


def test_the_entry_of_the_package_is_the_helper() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"][HELPERS[0]].partition(":")
    assert callable(getattr(import_module(module), name))
