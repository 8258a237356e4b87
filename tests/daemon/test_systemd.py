"""The units of systemd/, with a systemd that has booted, and seen from outside of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.boot import SYSTEMD, Booted
from tests.commands import run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
# What systemd-analyze security may say, from 0 (nothing can happen) to 100. A mount that others see
# can have no mount namespace of its own, and needs CAP_SYS_ADMIN; all that is left is used.
# With systemd 252 it says 51, 37 and 70; other versions weigh a little otherwise.
THRESHOLDS = {"mirrorfs@": 55, "mirrorfs-check@": 42, "mirrorfs-scrub@": 73}
# Each gives a service a mount namespace of its own (systemd.exec(5)).
HIDE_THE_MOUNT = {
    "BindPaths", "BindReadOnlyPaths", "ExecPaths", "ExtensionDirectories", "ExtensionImages",
    "InaccessiblePaths", "LogNamespace", "MountAPIVFS", "MountFlags", "MountImages",
    "NoExecPaths", "PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateNetwork",
    "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectControlGroups", "ProtectHome",
    "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
    "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootImage",
    "TemporaryFileSystem", "DynamicUser",
}  # fmt: skip
UNIT = "mirrorfs@mnt-mirror.service"
BACKING, POINT = "/srv/bk/backup", "/mnt/mirror"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SYSTEMD.exists(), reason="needs the package systemd"),
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Booted]:
    machine = Booted(tmp_path)
    try:
        for unit in UNITS.iterdir():
            shutil.copy(unit, machine / f"/etc/systemd/system/{unit.name}")
        machine.run("mkdir", "-p", BACKING, POINT)
        machine.run("mount", "-t", "tmpfs", "tmpfs", "/srv/bk")
        machine.run("mkdir", BACKING)
        config(machine)
        machine.systemctl("daemon-reload")
        yield machine
    finally:
        machine.stop()


def config(machine: Booted, more: str = "") -> None:
    machine.put(
        "/etc/mirrorfs.toml",
        f'[mount."{POINT}"]\nbacking = "{BACKING}"\nsession_quiet = 0\n{more}\n',
    )


def drop_in(machine: Booted, text: str) -> None:
    machine.put(f"/etc/systemd/system/{UNIT}.d/test.conf", f"[Service]\n{text}\n")
    machine.systemctl("daemon-reload")


def pid(machine: Booted) -> int:
    return int(machine.show(UNIT, "MainPID"))


def kill(machine: Booted, number: signal.Signals) -> None:
    machine.run("kill", f"-{int(number)}", pid(machine))


def test_the_units_have_no_mistakes(machine: Booted) -> None:
    names = [unit.name for unit in UNITS.iterdir()]
    assert len(names) == 6
    for name in names:
        unit = f"/etc/systemd/system/{name}"
        done = machine.run("systemd-analyze", "verify", unit, check=False)
        said = [line for line in done.stderr.splitlines() if "mirror" in line]
        assert (done.returncode, said) == (0, []), name


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_unit_is_as_closed_as_it_can_be(service: Path, tmp_path: Path) -> None:
    keys = re.findall(r"^(\w+)=", service.read_text(), re.MULTILINE)
    assert not {*keys} & HIDE_THE_MOUNT
    threshold = THRESHOLDS[service.stem]
    words = ("systemd-analyze", "security", "--offline=true", service)
    assert run(*words, f"--threshold={threshold}", check=False).returncode == 0


def test_a_mount_is_seen_by_all_and_goes_with_its_unit(machine: Booted) -> None:
    machine.systemctl("enable", "--now", UNIT)
    assert machine.systemctl("is-active", UNIT) == "active"
    # Ready means that it answers, outside of the unit.
    assert machine.run("findmnt", "-no", "FSTYPE", POINT).stdout == "fuse.mirrorfs\n"
    machine.put(f"{POINT}/vm.img", "x" * 100_000)
    assert (machine / f"{BACKING}/vm.img").stat().st_size == 100_000
    own = machine.run("readlink", f"/proc/{pid(machine)}/ns/mnt").stdout
    assert own == machine.run("readlink", "/proc/1/ns/mnt").stdout
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    assert machine.run("findmnt", POINT, check=False).stdout == ""


def test_the_status_tells_the_last_session(machine: Booted) -> None:
    machine.systemctl("start", UNIT)
    assert machine.show(UNIT, "StatusText") == "serving; no session yet"
    data = os.urandom(1 << 20)
    for name in ("vm.img", "other.img"):
        (machine / f"{POINT}/{name}").write_bytes(data)
        wait_for(lambda name=name: name in machine.show(UNIT, "StatusText"))  # type: ignore[misc]
    (machine / f"{POINT}/vm.img").write_bytes(data)
    wait_for(lambda: "100 % not written" in machine.show(UNIT, "StatusText"))
    text = machine.show(UNIT, "StatusText")
    assert text.startswith(
        "last session: vm.img 1.00 MiB: received 1.00 MiB, wrote 0 B in 0 chunks"
    )


def test_what_root_may_do_is_not_forbidden_by_the_unit(machine: Booted) -> None:
    """Owners, modes with set-user-ID, device nodes, attributes and file handles, as rsync -a and
    the mount itself want them; sessions; and the user's command as another user.
    """
    machine.put("/srv/hook", "#!/bin/sh\nid -un >/tmp/hook\ncat >>/tmp/hook\n", 0o755)
    config(machine, 'on_session = "/srv/hook"')
    machine.systemctl("start", UNIT)
    machine.run("sh", "-euc", f"""
        cd {POINT}
        echo text >file; chown 1234:5678 file; chmod 6755 file; setfattr -n user.a -v b file
        mknod null c 1 3; mkfifo fifo; ln -s file link; ln file hard
        mknod loop b 7 0
        setfattr -n trusted.a -v b file; setcap cap_net_raw+ep hard || [ $? = 127 ]
        mkdir -m 2770 folder; chgrp 5678 folder
        touch -d 2001-01-01 file; cp --sparse=always file copy; mv copy moved
        truncate -s 1M moved; fallocate -p -o 0 -l 65536 moved; rm moved
        """)  # fmt: skip
    stat = machine.run("stat", "-c", "%F %a %u:%g %t,%T", f"{BACKING}/file", f"{BACKING}/null",
                       f"{BACKING}/loop", f"{BACKING}/folder").stdout  # fmt: skip
    assert stat.splitlines() == [
        "regular file 6755 1234:5678 0,0",
        "character special file 644 0:0 1,3",
        "block special file 644 0:0 7,0",
        "directory 2770 0:5678 0,0",
    ]
    hook = machine / "/tmp/hook"
    wait_for(lambda: hook.exists() and hook.read_text().endswith("}\n"))
    user, _, session = hook.read_text().partition("\n")
    assert user == "nobody"
    assert json.loads(session)["mount_point"] == POINT
    # All that the mount can do without the unit, it can do in it.
    apart = (
        "mkdir /tmp/b /tmp/m; mount -t tmpfs t /tmp/b; mirrorfs mount /tmp/b /tmp/m -o log=/tmp/l"
    )
    machine.run("sh", "-c", apart)
    extras = [
        json.loads((machine / f"{point}/.mirrorfs/config.json").read_text())["extras"]
        for point in (POINT, "/tmp/m")
    ]
    assert extras[0] == extras[1]
    assert machine.journal("-u", UNIT, "-p", "warning") == ""


def test_a_daemon_that_was_killed_is_started_again_over_the_dead_mount(machine: Booted) -> None:
    drop_in(machine, "RestartSec=0")
    machine.systemctl("start", UNIT)
    first = pid(machine)
    kill(machine, signal.SIGKILL)
    wait_for(lambda: pid(machine) not in {0, first})
    wait_for(lambda: machine.systemctl("is-active", UNIT, check=False) == "active")
    machine.put(f"{POINT}/file", "text")
    assert (machine / f"{BACKING}/file").read_text() == "text"


def test_what_does_not_mend_itself_is_not_tried_again(machine: Booted) -> None:
    config(machine, "zeroes = 'punch'")
    assert machine.run("systemctl", "start", UNIT, check=False).returncode != 0
    assert machine.systemctl("is-active", UNIT, check=False) == "failed"
    assert machine.show(UNIT, "ExecMainStatus") == "10"
    assert "line 4: unknown key 'zeroes'; did you mean 'zeros'?" in machine.journal("-u", UNIT)


def test_umount_ends_the_unit(machine: Booted) -> None:
    machine.systemctl("start", UNIT)
    machine.run("umount", POINT)
    wait_for(lambda: machine.systemctl("is-active", UNIT, check=False) == "inactive")
    assert machine.show(UNIT, "Result") == "success"


def test_lines_have_their_priority_in_the_journal(machine: Booted) -> None:
    machine.put("/srv/hook", "#!/bin/sh\nexit 3\n", 0o755)
    config(machine, 'on_session = "/srv/hook"')
    machine.systemctl("start", UNIT)
    machine.put(f"{POINT}/file", "text")

    def lines() -> dict[str, str]:
        found = map(json.loads, machine.journal("-u", UNIT, "-o", "json").splitlines())
        return {
            line["MESSAGE"]: line["PRIORITY"]
            for line in found
            if line.get("SYSLOG_IDENTIFIER") == "mirrorfs"
        }

    wait_for(lambda: any("ended with 3" in line for line in lines()))
    found = lines()
    assert {text for text, priority in found.items() if priority == "4"} == {
        f"{POINT}: on_session=/srv/hook: ended with 3"
    }
    assert any(
        text.startswith(f"{POINT}: mounted {BACKING} on {POINT}") and priority == "6"
        for text, priority in found.items()
    )


def test_a_watchdog_ends_a_daemon_that_hangs_and_no_other(machine: Booted) -> None:
    drop_in(machine, "WatchdogSec=3\nRestartSec=0")
    machine.systemctl("start", UNIT)
    first = pid(machine)
    begun = int(machine.show(UNIT, "WatchdogTimestampMonotonic"))
    # It was heard of again, well after what READY counts for.
    wait_for(lambda: int(machine.show(UNIT, "WatchdogTimestampMonotonic")) > begun + 4_000_000)
    assert pid(machine) == first
    kill(machine, signal.SIGSTOP)
    wait_for(lambda: pid(machine) not in {0, first})
    wait_for(lambda: machine.systemctl("is-active", UNIT, check=False) == "active")
    machine.put(f"{POINT}/file", "text")


def test_what_is_being_written_when_the_machine_goes_down_is_finished(machine: Booted) -> None:
    machine.systemctl("start", UNIT)
    (machine / f"{POINT}/vm.img").write_bytes(b"old" * (1 << 20))
    # What was truncated keeps its old blocks below until it is closed.
    script = "import sys, time; f = open(sys.argv[1], 'wb', 0); f.write(b'n' * 100000); "
    writer = (sys.executable, "-c", script + "time.sleep(1000)", f"{POINT}/vm.img")
    machine.run("systemd-run", "--unit=writer", *writer)
    wait_for(lambda: (machine / f"{POINT}/vm.img").stat().st_size == 100_000)
    below = os.open(machine / f"{BACKING}/vm.img", os.O_RDONLY)
    assert os.fstat(below).st_size == 3 << 20
    machine.power_off()
    assert os.fstat(below).st_size == 100_000
    assert os.pread(below, 200_000, 0) == b"n" * 100_000
    os.close(below)


def test_the_mount_unit(machine: Booted) -> None:
    unit = "mnt-mirror.mount"
    machine.systemctl("start", unit)
    machine.put(f"{POINT}/file", "text")
    assert (machine / f"{BACKING}/file").read_text() == "text"
    assert {"nosuid", "nodev"} <= {
        *machine.run("findmnt", "-no", "OPTIONS", POINT).stdout.strip().split(",")
    }
    machine.systemctl("stop", unit)
    assert machine.run("findmnt", POINT, check=False).stdout == ""


def test_the_check_fails_where_a_copy_is_missing(machine: Booted) -> None:
    service = "mirrorfs-check@mnt-mirror.service"
    machine.systemctl("start", UNIT)
    (machine / f"{POINT}/vm.img").write_bytes(os.urandom(1 << 20))
    wait_for(lambda: "vm.img" in machine.show(UNIT, "StatusText"))
    machine.systemctl("start", service)
    assert machine.show(service, "Result") == "success"
    assert "OK" in machine.journal("-u", service)
    machine.systemctl("enable", "--now", "mirrorfs-check@mnt-mirror.timer")
    assert machine.systemctl("is-active", "mirrorfs-check@mnt-mirror.timer") == "active"
    kill(machine, signal.SIGSTOP)
    assert machine.run("systemctl", "start", service, check=False).returncode != 0
    assert machine.show(service, "ExecMainStatus") == "2"
    kill(machine, signal.SIGCONT)


def test_the_scrub_waits_for_a_mount(machine: Booted) -> None:
    """Where nothing is mounted, a scrub is neither run nor failed."""
    service = "mirrorfs-scrub@mnt-mirror.service"
    machine.systemctl("enable", "--now", "mirrorfs-scrub@mnt-mirror.timer")
    machine.systemctl("start", service)
    assert machine.show(service, "ConditionResult") == "no"
    assert machine.show(service, "Result") == "success"
