"""`mirrorfs check`: one line and an exit code, as monitoring takes them."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import progress_table
from mirrorfs.catalog.judgement import Severity
from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, mirrorfs, run, wait_for
from tests.remembered import leave_killed, open_session, wait_for_sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
DATA = os.urandom(2 * MIB)
# Monitoring Plugins Development Guidelines, 2.6: 'label'=value[UOM];warn;crit;min;max
_FIGURE = re.compile(
    r"'([a-z]+)'=(-?\d+(?:\.\d+)?)(s|%|B|c|)((?:;(?:@?[\d.]*:?[\d.]*)){0,2}(?:;[\d.]*){0,2})"
)


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder, "session_quiet=0", noisy=True)


def checked(*words: object, severity: Severity) -> str:
    """The text of the one line that a check prints; its figures must be well formed."""
    done = mirrorfs("check", *words, check=False)
    assert done.returncode == severity, done.stdout + done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    text, bar, figures = line.partition(" | ")
    assert text.startswith(f"{severity.name}: ")
    assert "|" not in text + figures
    for figure in figures.split():
        assert _FIGURE.fullmatch(figure), figure
    assert bar or severity >= Severity.CRITICAL
    return text.removeprefix(f"{severity.name}: ")


def figures(*words: object) -> dict[str, str]:
    line = mirrorfs("check", *words, check=False).stdout
    return {
        match[1]: match[2] + match[3] + match[4]
        for match in map(_FIGURE.fullmatch, line.partition(" | ")[2].split())
        if match
    }


def let_pass(mirror: Mirror, hours: int) -> None:
    """What a catalog looks like so many hours later. Nothing is mounted meanwhile."""
    mirror.umount()
    db = sqlite3.connect(os.fsdecode(mirror.state_folder + b"/catalog.sqlite3"))
    span = hours * 3600 * 10**9
    db.execute("UPDATE sessions SET begin_ns=begin_ns-?, end_ns=end_ns-?", (span, span))
    db.commit()
    db.close()
    mirror.mount()


def test_all_is_well(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    text = checked(mirror.path, severity=Severity.OK)
    assert re.fullmatch(r"1 file, the oldest last good [\d.]+ s ago, \d+ % free", text)
    found = figures(mirror.path, "--free-below", "10%", "--changed-above", "40%")
    assert found["files"] == "1;;;0"
    assert found["incomplete"] == "0;;0;0;1"
    assert found["changed"] == "100.00%;40;;0;100"
    assert re.fullmatch(r"\d+s;;93600;0", found["oldest"])
    assert re.fullmatch(r"\d+\.\d\d%;10:;5:;0;100", found["free"])
    assert found["allocated"] == f"{2 * MIB}B;;;0"


def test_what_is_too_old_is_critical_the_oldest_first(mirror: Mirror) -> None:
    mirror.write("vm3.img", 0, DATA)
    wait_for_sessions(mirror, "vm3.img")
    let_pass(mirror, 12)
    mirror.write("vm2.img", 0, DATA)
    wait_for_sessions(mirror, "vm2.img")
    let_pass(mirror, 40)
    mirror.write("vm1.img", 0, DATA)
    wait_for_sessions(mirror, "vm1.img")
    text = checked(mirror.path, severity=Severity.CRITICAL)
    assert text == "vm3.img last good 52 h ago (should be < 26 h), and 1 more"
    text = checked(mirror.path, "--older-than", "50h", severity=Severity.CRITICAL)
    assert text == "vm3.img last good 52 h ago (should be < 50 h)"
    checked(mirror.path, "--older-than", "7d", severity=Severity.OK)
    checked(mirror.path, "--match", "vm1.*", severity=Severity.OK)
    mirror.umount()
    text = checked(mirror.backing, severity=Severity.CRITICAL)
    assert text.startswith("vm3.img last good 52 h ago")


def test_a_torn_copy_is_critical_until_the_next_good_one(mirror: Mirror) -> None:
    mirror.write("small", 0, b"x")
    wait_for_sessions(mirror, "small")
    leave_killed(mirror, "small")
    wait_for_sessions(mirror, "small", 2)
    text = checked(mirror.path, severity=Severity.CRITICAL)
    assert re.fullmatch(r"small incomplete: killed [\d.]+ s ago \(last good [\d.]+ s ago\)", text)
    assert figures(mirror.path)["incomplete"] == "1;;0;0;1"
    mirror.write("small", 0, b"y")
    wait_for_sessions(mirror, "small", 3)
    assert checked(mirror.path, severity=Severity.OK) == "no file of 1 MiB or more there yet"


def test_what_was_never_copied_is_critical_but_not_while_it_is(mirror: Mirror) -> None:
    with open_session(mirror, "vm.img", DATA):
        checked(mirror.path, severity=Severity.OK)
    wait_for_sessions(mirror, "vm.img")
    (mirror.backing / "beside.img").write_bytes(DATA)
    text = checked(mirror.path, severity=Severity.CRITICAL)
    assert text == "beside.img was never noted as a good copy"
    checked(mirror.path, "--match", "vm*", severity=Severity.OK)


def test_what_is_unusual_or_changed_too_much_is_warned_of(mirror: Mirror) -> None:
    for name in ("vm1.img", "vm2.img"):
        mirror.write(name, 0, DATA)
        wait_for_sessions(mirror, name)
    checked(mirror.path, "--changed-above", "40%", severity=Severity.OK)
    mirror.write("vm1.img", 0, DATA[: MIB * 3 // 2][::-1])
    wait_for_sessions(mirror, "vm1.img", 2)
    text = checked(mirror.path, "--changed-above", "40%", severity=Severity.WARNING)
    assert text == "vm1.img changed 75 % (should be < 40 %)"
    checked(mirror.path, "--changed-above", "80%", severity=Severity.OK)
    mirror.write("vm2.img", 0, bytes(len(DATA)))
    wait_for_sessions(mirror, "vm2.img", 2)
    text = checked(mirror.path, severity=Severity.WARNING)
    assert text == "vm2.img unusual: 100 % of its data turned to zeros"


def test_too_little_free_space(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    system = os.statvfs(mirror.backing)
    percent = 100 * system.f_bavail / system.f_blocks
    more = f"{min(100, percent + 3):.2f}%"
    text = checked(mirror.path, "--free-below", more, severity=Severity.WARNING)
    assert re.fullmatch(r"\d+ % free \(should be > \d+ %\)", text)
    checked(mirror.path, "--free-below", f"{percent - 3:.2f}", severity=Severity.OK)


def test_a_mount_that_is_dead_or_hangs_is_critical(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    pid = mirror.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "does not answer" in checked(mirror.path, severity=Severity.CRITICAL)
    finally:
        os.kill(pid, signal.SIGCONT)
    mirror.kill()
    text = checked(mirror.path, severity=Severity.CRITICAL)
    assert text.startswith(f"{mirror.path}: the daemon of this mirrorfs is dead")
    mirror.mount()
    checked(mirror.path, severity=Severity.OK)


def test_a_mount_over_itself_that_is_dead_is_critical_whatever_is_not_seen(
    ext4_folder: Path, tmp_path: Path
) -> None:
    mirrorfs("mount", ext4_folder, ext4_folder, "-o", f"log={tmp_path}/log")
    try:
        text = checked(ext4_folder, severity=Severity.UNKNOWN)
        assert "mounted over itself" in text
        pid = json.loads(mirrorfs("stats", "--json", ext4_folder).stdout)["pid"]
        watch = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([watch], [], [], 60)
        os.close(watch)
        text = checked(ext4_folder, severity=Severity.CRITICAL)
        assert text.startswith(f"{ext4_folder}: the daemon of this mirrorfs is dead")
        for command in ("status", "history"):
            done = mirrorfs(command, ext4_folder, check=False)
            assert (done.returncode, done.stdout) == (ExitCode.NO_ANSWER, "")
            (line,) = done.stderr.splitlines()
            assert "is dead" in line
    finally:
        run("umount", "--lazy", ext4_folder, check=False)
        progress_table.remove_all(progress_table.owner_of(os.fsencode(ext4_folder / ".mirrorfs")))


def test_without_any_history_it_says_what_to_do(mirror: Mirror, tmp_path: Path) -> None:
    text = checked(mirror.path, severity=Severity.UNKNOWN)
    assert f"no session was noted in {mirror.backing}/.mirrorfs yet; copy something" in text
    text = checked(tmp_path, severity=Severity.UNKNOWN)
    assert "neither in a mirrorfs mount nor in a backing folder" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--oldre-than", "26h"), "not understood: --oldre-than"),
        (("--older-than",), "--older-than: expected one argument"),
        (("--older-than", "soon"), "--older-than: 'soon' is no span of time"),
        (("--changed-above", "half"), "--changed-above: 'half' is no share"),
        (("--free-below", "200%"), "--free-below: '200%' is no share"),
        (("one", "two"), "not understood: two"),
        (("/no/such/folder",), "/no/such/folder: no such file or folder"),
        (("",), "a path is empty"),
        (("--state", "/tmp"), "--state: name the backing folder, too"),
    ],
)
def test_a_typo_is_unknown_and_never_critical(words: tuple[str, ...], said: str) -> None:
    assert said in checked(*words, severity=Severity.UNKNOWN)


def test_a_pattern_that_no_file_has_is_unknown(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    text = checked(mirror.path, "--match", "*.qcow2", severity=Severity.UNKNOWN)
    assert text == "no file matches '*.qcow2'"


def test_a_name_cannot_forge_a_figure_or_a_line(mirror: Mirror) -> None:
    (mirror.backing / "a | 'files'=0\n\x1b[0m.img").write_bytes(DATA)
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    text = checked(mirror.path, severity=Severity.CRITICAL)
    assert text.startswith(r"a \x7c 'files'=0\n\x1b[0m.img was never")


def test_a_damaged_catalog_is_unknown(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    mirror.umount()
    for left in (mirror.backing / ".mirrorfs").glob("catalog.sqlite3*"):
        left.unlink()
    (mirror.backing / ".mirrorfs/catalog.sqlite3").write_bytes(b"no catalog" * 1000)
    assert "cannot be read" in checked(mirror.backing, severity=Severity.UNKNOWN)


def test_all_mounts_are_checked_where_none_is_named(mirror: Mirror) -> None:
    (mirror.backing / "never.img").write_bytes(DATA)
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    # In a mount namespace of its own, where this is the only one.
    script = (
        "awk '$0 ~ / - fuse.mirrorfs / { print $5 }' /proc/self/mountinfo |"
        ' while read -r point; do [ "$point" = "$0" ] || umount --lazy "$point"; done;'
        ' exec "$@"'
    )
    words = ("unshare", "--mount", "sh", "-c", script, mirror.path, *MIRRORFS, "check")
    done = run(*words, check=False)
    assert done.returncode == Severity.CRITICAL
    assert done.stdout.startswith("CRITICAL: never.img was never noted")
    mirror.umount()
    done = run(*words, check=False)
    assert done.returncode == Severity.UNKNOWN
    assert done.stdout.startswith("UNKNOWN: no mirrorfs is mounted here")
    wait_for(lambda: not mirror.path.is_mount())


def test_help_is_no_alarm() -> None:
    assert mirrorfs("check", "--help").stdout.startswith("usage: mirrorfs check")
