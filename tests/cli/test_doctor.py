"""`mirrorfs doctor` with real mounts: what it finds, says and ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from mirrorfs.cli import places
from mirrorfs.daemon import copies, diagnosis, examination, machine, mounted, remembered
from mirrorfs.daemon.finding import Plain, command
from tests.commands import mirrorfs, wait_for
from tests.remembered import leave_killed, wait_for_sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.mounted import Mirror


def findings(*words: object, code: int) -> dict[str, dict[str, Any]]:
    """What is found, by the name of the check."""
    done = mirrorfs("doctor", "--json", *words, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return {one["check"]: one for one in json.loads(done.stdout)["findings"]}


def test_a_mount_that_is_well(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    mirror.write("vm.img", 0, os.urandom(2 << 20))
    wait_for_sessions(mirror, "vm.img")
    found = findings(mirror.path, code=0)
    assert found["no-clones"]["level"] == "note"
    assert not {one for one in found if found[one]["level"] == "problem"}
    # How much is known by digests is noted a moment later.
    wait_for(
        lambda: findings(mirror.backing, code=0).keys() == findings(mirror.path, code=0).keys()
    )


def test_an_incomplete_copy(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    leave_killed(mirror, "it's.img", os.urandom(2 << 20))
    wait_for_sessions(mirror, "it's.img")
    found = findings(mirror.path, code=1)
    assert "killed" in found["incomplete"]["text"]
    # The command can be given to a shell as it is.
    given = found["incomplete"]["command"].replace("mirrorfs", f"{sys.executable} -m mirrorfs", 1)
    words = ["bash", "-c", given]
    assert "killed" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    mirror.umount()
    assert "incomplete" in findings(mirror.backing, code=1)


def test_dead_and_stopped_mounts(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = mount_mirror(ext4_folder)
    pid = mirror.pid
    monkeypatch.setattr(mounted, "ANSWER_SECONDS", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        place = remembered.find(os.fsencode(mirror.path))
        looked = examination.examine(place, places.look)
    finally:
        os.kill(pid, signal.SIGCONT)
    [found_here] = diagnosis.answer(looked)
    assert command(found_here, Plain()) == f"kill -CONT {pid}"
    mirror.kill()
    found = findings(mirror.path, code=1)
    assert found["dead"]["command"] == f"mirrorfs umount {mirror.path}"


def test_an_anonymous_report(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0,compare=digest")
    leave_killed(mirror, "payroll.img", os.urandom(2 << 20))
    wait_for_sessions(mirror, "payroll.img")
    text = mirrorfs("doctor", "--anonymous", mirror.path, check=False).stdout
    text += mirrorfs("doctor", "--anonymous", "--json", mirror.path, check=False).stdout
    assert os.uname().release in text
    assert "compare=digest" in text
    for name in ("payroll", str(mirror.path), str(mirror.backing), mirror.path.name, "/tmp"):
        assert name not in text


def test_what_is_no_place(tmp_path: Path) -> None:
    assert mirrorfs("doctor", tmp_path, check=False).returncode == 7


def test_a_running_rsync_is_seen(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> None:
    mirror = mount_mirror(ext4_folder)
    source = ext4_folder.parent / "source.img"
    source.write_bytes(os.urandom(8 << 20))
    words = ["rsync", "--inplace", "-S", "--bwlimit=100", source.name, f"{mirror.path}/"]
    with subprocess.Popen(words, cwd=source.parent) as rsync:
        try:
            wait_for(lambda: copies.running([os.fsencode(mirror.path)]))
            found = findings(mirror.path, code=0)
        finally:
            rsync.terminate()
    source.unlink()
    assert str(mirror.path) in found["rsync-sparse"]["text"]


def test_fstab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "with space"
    there.mkdir()
    table = tmp_path / "fstab"
    escaped = str(there).replace(" ", "\\040")
    table.write_text(
        "# /a /b fuse.mirrorfs defaults 0 0\n"
        f"{escaped} {escaped} fuse.mirrorfs nofail,x-systemd.automount 0 0\n"
        "/nowhere/a /nowhere/b mirrorfs blok=4k\n"
        "LABEL=x / ext4 defaults 0 1\n"
        "short\n"
    )
    monkeypatch.setattr(machine, "_SYSTEM_PATH", str(tmp_path))
    first, second = machine.examine([], table).entries
    assert (first.line, first.has_source, first.has_point, first.refusal) == (2, True, True, "")
    assert not first.has_helper
    for name in ("mount.fuse", "mirrorfs"):
        (tmp_path / name).touch(mode=0o755)
    assert machine.examine([], table).entries[0].has_helper
    assert (second.line, second.has_source, second.has_point) == (3, False, False)
    assert "did you mean 'block'" in second.refusal
