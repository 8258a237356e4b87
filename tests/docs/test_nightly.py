"""docs/nightly.md is followed word by word: every block of it, on ext4 and on xfs.

Only these things stand in for others: the loop device for LABEL=backup, a `git` that clones the
environment of these tests, and a `date` that shows the night's. Where systemd is meant, a
`systemctl` does what systemd would, and the units are judged by systemd's own programs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.docs.machine import Machine, wait_until
from tests.docs.page import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
MAPS_BYTES = 64 << 10  # what a file system may need to note where a file's data is
SOURCE = "/var/lib/libvirt/images"
BACKUP = "/srv/bk/backup"
GENERATIONS = "/srv/bk/generations"
TORN = "/srv/bk/torn-night"
DATES = ["2026-01-30", "2026-01-31", "2026-02-01", "2026-02-02"]
NIGHTS = [f"{date} 02:30" for date in DATES]
NAMES = [f"{date}.023000" for date in DATES]
FSTAB_GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"


@pytest.fixture(params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    """The file system of the backup disk."""
    return str(request.param)


on_ext4 = pytest.mark.parametrize("kind", ["ext4"])
on_xfs = pytest.mark.parametrize("kind", ["xfs"])


@pytest.fixture
def machine(kind: str, tmp_path: Path) -> Iterator[Machine]:
    """A machine with two images, on which the page was followed up to its first night."""
    machine = Machine(tmp_path, kind)
    try:
        write(machine, "vm.img", 0, os.urandom(4 * MIB))
        write(machine, "vm.img", 40 * MIB, os.urandom(4 * MIB))
        write(machine, "db/data.img", 8 * MIB, os.urandom(4 * MIB))
        os.truncate(machine / SOURCE / "vm.img", 64 * MIB)
        write(machine, "vm.img", 0, b"")  # truncating has moved its time
        machine.follow("install", "fstab", "mount", "job", "cron")
        yield machine
    finally:
        machine.stop()


def write(machine: Machine, name: str, offset: int, data: bytes) -> None:
    """Change an image at the source. Its time moves by more than the second that rsync compares,
    and lies a day back: a torn copy has the time at which it was torn, and would be
    passed over if that were the time of the image.
    """
    path = machine / SOURCE / name
    path.parent.mkdir(exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640)
    before = os.fstat(fd)
    os.pwrite(fd, data, offset)
    is_dated_back = before.st_mtime < time.time() - 43_200
    os.utime(fd, (before.st_atime, before.st_mtime + (2 if is_dated_back else -86_400)))
    os.close(fd)


def content(folder: Path) -> dict[str, list[str]]:
    """A digest of each MiB of each file below a folder, by its name; without the state folder."""
    return {
        str(path.relative_to(folder)): digests(path)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".mirrorfs"
    }


def digests(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [hashlib.sha256(piece).hexdigest() for piece in iter(lambda: file.read(MIB), b"")]


def first_mib(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MIB)


def generations(machine: Machine) -> list[str]:
    """All that is there, hidden names too."""
    return sorted(os.listdir(machine / GENERATIONS))


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def assert_mirrored(machine: Machine) -> None:
    """The mirror holds what the source holds and is as sparse, and no night is under way."""
    source, copy = machine / SOURCE, machine / BACKUP
    expected = content(source)
    for name in expected:
        assert (copy / name).stat().st_mtime == (source / name).stat().st_mtime
        assert allocated(copy / name) <= allocated(source / name) + MAPS_BYTES
    assert content(copy) == expected
    assert content(machine / "/mnt/mirror") == expected
    assert not (machine / TORN).exists()


def test_cron_file_has_a_name_and_a_line_that_cron_accepts() -> None:
    cron = blocks()["cron"]
    assert re.fullmatch("/etc/cron.d/[A-Za-z0-9_-]+", cron.file)
    assert re.fullmatch(r"\d+ \d+ \* \* \*  root  /\S+\n", cron.text)


def test_nights_keep_generations_although_one_is_killed(machine: Machine) -> None:
    image, copy = machine / SOURCE / "vm.img", machine / BACKUP / "vm.img"
    states: list[dict[str, list[str]]] = [{}]  # before the first night
    machine.night(NIGHTS[0])
    assert_mirrored(machine)
    states.append(content(machine / SOURCE))
    first, first_allocated = image.stat(), allocated(copy)

    write(machine, "vm.img", 2 * MIB, os.urandom(MIB) + bytes(MIB))
    write(machine, "vm.img", 20 * MIB, os.urandom(MIB))
    machine.night(NIGHTS[1])
    assert_mirrored(machine)
    states.append(content(machine / SOURCE))

    new = os.urandom(MIB)
    write(machine, "vm.img", 0, new)
    write(machine, "vm.img", 60 * MIB, new)
    # So slow that it would take half a minute to come to the second change.
    machine.put("/usr/local/bin/rsync", '#!/bin/sh\nexec /usr/bin/rsync --bwlimit=2m "$@"\n', 0o755)
    with subprocess.Popen(machine.night_command(NIGHTS[2]), stderr=subprocess.PIPE) as night:
        wait_until(lambda: first_mib(copy) == new)
        # One may end by itself when the other is gone.
        machine.run("sh", "-c", "kill -9 $(pidof rsync) || ! pidof rsync")
    assert night.returncode != 0
    assert (machine / TORN).exists()
    states.append(content(machine / BACKUP))
    assert states[3]["vm.img"] not in (states[2]["vm.img"], content(machine / SOURCE)["vm.img"])
    assert copy.stat().st_mtime > image.stat().st_mtime  # else the next night would pass it over

    (machine / "/usr/local/bin/rsync").unlink()
    machine.night(NIGHTS[3])
    assert_mirrored(machine)
    kept = [*NAMES[:3], f"{NAMES[3]}.after-torn-night"]
    assert generations(machine) == kept
    assert [content(machine / GENERATIONS / name) for name in kept] == states
    for name in kept[1:]:
        assert allocated(machine / GENERATIONS / name / "vm.img") <= 12 * MIB
        assert not (machine / GENERATIONS / name / ".mirrorfs").exists()

    image.unlink()
    machine.follow("restore")
    assert content(machine / SOURCE)["vm.img"] == states[1]["vm.img"]
    restored = image.stat()
    assert (restored.st_mode, restored.st_mtime) == (first.st_mode, first.st_mtime)
    assert allocated(image) <= first_allocated


def fill_disk(machine: Machine, but_bytes: int) -> Path:
    """A file that takes all the space of the backup disk but so much."""
    space = os.statvfs(machine / "/srv/bk")
    filler = machine / "/srv/bk/filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bfree * space.f_frsize - but_bytes)
    return filler


def test_nights_on_a_full_disk_fail_and_keep_what_was_good(machine: Machine, kind: str) -> None:
    machine.night(NIGHTS[0])
    good = content(machine / BACKUP)
    write(machine, "zz-new.img", 0, os.urandom(24 * MIB))

    filler = fill_disk(machine, 20 * MIB)  # enough to keep a generation, not for what is new
    failed = machine.night(NIGHTS[1], check=False)
    assert failed.returncode != 0
    assert "No space left" in failed.stderr
    torn = content(machine / BACKUP)
    if kind != "ext4":
        os.truncate(filler, filler.stat().st_size - MIB)  # for the names of a generation
    again = machine.night(NIGHTS[2], check=False)
    assert again.returncode != 0
    kept = [*NAMES[:2], f"{NAMES[2]}.after-torn-night"]
    if kind == "ext4":
        # There is not even space to keep a copy: then nothing is changed, and nothing half is left.
        kept.pop()
        assert content(machine / BACKUP) == torn
    assert generations(machine) == kept

    filler.unlink()
    machine.night(NIGHTS[3])
    assert_mirrored(machine)
    kept.append(f"{NAMES[3]}.after-torn-night")
    assert generations(machine) == kept
    assert [content(machine / GENERATIONS / name) for name in kept[:3]] == [{}, good, torn]


@on_xfs
def test_oldest_generations_are_removed_but_never_the_last_good_one(machine: Machine) -> None:
    folder = machine / GENERATIONS
    for day in range(1, 21):
        (folder / f"2025-12-{day:02}.023000").mkdir()
        os.utime(folder / f"2025-12-{day:02}.023000", (1e9 - day, 1e9 - day))
    for name in "before-upgrade", ".new":
        (folder / name / "folder").mkdir(parents=True)
    machine.night(NIGHTS[0])
    days = [f"2025-12-{day:02}.023000" for day in range(8, 21)]
    assert generations(machine) == [*days, NAMES[0], "before-upgrade"]

    for name in [*days, NAMES[0]][1:]:
        (folder / name).rename(folder / f"{name}.after-torn-night")
    (machine / TORN).touch()
    machine.night(NIGHTS[1])
    torn = [f"{name}.after-torn-night" for name in [*days[1:], *NAMES[:2]]]
    assert generations(machine) == [days[0], *torn, "before-upgrade"]
    machine.night(NIGHTS[2])
    assert generations(machine) == [*torn[1:], NAMES[2], "before-upgrade"]


@on_ext4
def test_two_nights_never_overlap(machine: Machine) -> None:
    hold = machine.command("flock", "/run/mirror-night.lock", "sh", "-c", "echo held; read line")
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        refused = machine.night(NIGHTS[0], check=False)
        holder.communicate(b"\n")
    assert refused.returncode == 1
    assert refused.stderr == "mirror-night: the one before is still running\n"
    assert generations(machine) == []
    machine.night(NIGHTS[0])
    assert_mirrored(machine)


@on_xfs
def test_mount_that_is_missing_or_dead_is_replaced(machine: Machine) -> None:
    machine.run("mirrorfs", "umount", "/mnt/mirror")
    with pytest.raises(PermissionError):
        (machine / "/mnt/mirror/file").touch()
    machine.night(NIGHTS[0])
    assert_mirrored(machine)

    write(machine, "vm.img", 0, os.urandom(MIB))
    machine.kill_daemon()
    machine.night(NIGHTS[1])  # nor does the daemon that the night before started hold its lock
    assert_mirrored(machine)

    machine.run("mirrorfs", "umount", "/mnt/mirror")
    machine.run("umount", "/srv/bk")
    failed = machine.night(NIGHTS[2], check=False)
    assert failed.returncode != 0
    assert "/srv/bk/backup" in failed.stderr
    with pytest.raises(PermissionError):
        (machine / BACKUP).mkdir()
    assert os.listdir(machine / "/srv/bk") == os.listdir(machine / "/mnt/mirror") == []
    machine.run("mount", "/srv/bk")
    machine.night(NIGHTS[3])
    assert_mirrored(machine)
    assert generations(machine) == [*NAMES[:2], NAMES[3]]


@on_ext4
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs the package systemd")
def test_systemd_mounts_by_its_own_unit(machine: Machine) -> None:
    machine.boot_systemd()
    machine.follow("service", "timer", "enable")
    units = [machine.blocks[name].file for name in ("service", "timer")]
    verified = machine.run("systemd-analyze", "verify", *units, check=False)
    assert "mirror-night" not in verified.stderr  # what it says of other units is not ours
    wanted = machine / "/etc/systemd/system/timers.target.wants/mirror-night.timer"
    assert wanted.is_symlink()

    machine.run("mkdir", "/run/units")
    machine.run(FSTAB_GENERATOR, *["/run/units"] * 3)
    unit = machine.run("systemd-escape", "-p", "--suffix=mount", "/mnt/mirror").stdout.strip()
    lines = (machine / "/run/units" / unit).read_text().splitlines()
    assert {"What=/srv/bk/backup", "Where=/mnt/mirror", "RequiresMountsFor=/srv/bk"} <= {*lines}

    machine.kill_daemon()
    machine.night(NIGHTS[0])
    machine.run("mirrorfs", "umount", "/mnt/mirror")
    machine.night(NIGHTS[1])
    assert_mirrored(machine)
    calls = (machine / "/run/systemctl").read_text().splitlines()
    assert calls == [
        "daemon-reload",
        "enable --now mirror-night.timer",
        *[f"restart {unit}"] * 2,
    ]

    machine.follow("disable")
    assert not wanted.is_symlink()


@on_xfs
def test_removal_after_an_upgrade_leaves_only_the_copies(machine: Machine) -> None:
    before = (machine / "/etc/fstab").read_text()
    machine.night(NIGHTS[0])
    machine.follow("upgrade")
    machine.night(NIGHTS[1])
    assert_mirrored(machine)
    assert (machine / "/var/log/mirrorfs.log").exists()

    machine.follow("service", "timer", "remove")
    assert content(machine / BACKUP) == content(machine / SOURCE)
    assert sorted(os.listdir(machine / BACKUP)) == ["db", "vm.img"]
    assert generations(machine) == NAMES[:2]
    assert (machine / "/etc/fstab").read_text() == "".join(before.splitlines(keepends=True)[:-1])
    for folder in "/mnt", "/opt", "/var/log", "/usr/local/sbin":
        assert os.listdir(machine / folder) == []
    for name in "/usr/local/bin/mirrorfs", "/etc/cron.d/mirror-night":
        assert not (machine / name).is_symlink()
        assert not (machine / name).exists()
    assert not list((machine / "/etc/systemd/system").rglob("mirror-night*"))
    machine.run("umount", "/srv/bk")
    (machine / "/srv/bk/file").touch()
