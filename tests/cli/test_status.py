"""`mirrorfs status`: what stands on the page that is looked at every morning."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, mirrorfs, run, wait_for
from tests.disks import loop_mounted
from tests.remembered import leave_killed, noted, open_session, wait_for_sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

MIB = 1 << 20
DATA = os.urandom(2 * MIB)


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder, "session_quiet=0", noisy=True)


def status(*words: object, code: int) -> dict[str, Any]:
    done = mirrorfs("status", "--json", *words, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def files(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["file"]: one for one in found["files"]}


def lines(*words: object, code: int) -> list[str]:
    done = mirrorfs("status", *words, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return [line.strip() for line in done.stdout.splitlines()]


def test_good_copies_are_told_with_their_sizes_and_end_with_0(mirror: Mirror) -> None:
    mirror.write("vm1.img", 0, DATA)
    os.truncate(mirror.path / "vm1.img", 64 * MIB)
    mirror.write("note", 0, b"x" * 10)
    (session, *_), _ = wait_for_sessions(mirror, "vm1.img"), wait_for_sessions(mirror, "note")
    found = status(mirror.path, code=0)
    one = files(found)["vm1.img"]
    assert (one["state"], one["ended"], one["program"]) == ("good", "closed", session.program)
    assert (one["size"], one["allocated"]) == (64 * MIB, 2 * MIB)
    assert one["new"]
    assert one["last_good"] == one["last"] == noted(mirror, "vm1.img")[0].as_dict()["end"]
    assert list(files(found)) == ["vm1.img"]
    assert found["smaller"]["count"] == 1
    assert found["smaller"]["size"] == 10
    assert found["backing"] == str(mirror.backing)
    text = lines(mirror.path, code=0)
    assert text[0] == f"{mirror.path}: {mirror.backing}"
    row = next(line for line in text if line.startswith("vm1.img"))
    assert " 64.0 MiB   2.00 MiB      new  good" in row
    assert text[-1].startswith("1 smaller file: 10 B, the last one good ")


def test_what_was_changed_in_the_backing_folder_is_seen_as_it_is(mirror: Mirror) -> None:
    for name in ("vm1.img", "vm2.img"):
        mirror.write(name, 0, DATA)
        wait_for_sessions(mirror, name)
    os.truncate(mirror.backing / "vm1.img", MIB)
    (mirror.backing / "vm2.img").unlink()
    (mirror.backing / "beside.img").write_bytes(DATA)
    (mirror.backing / "beside.txt").write_bytes(b"small")
    found = files(status(mirror.path, code=1))
    assert (found["vm1.img"]["size"], found["vm1.img"]["allocated"]) == (MIB, MIB)
    assert found["vm2.img"]["gone"]
    assert found["beside.img"]["state"] == "never"
    assert found["beside.img"]["ended"] is None
    assert "beside.txt" not in found
    text = lines(mirror.path, code=1)
    assert any(line.startswith("vm2.img") and line.endswith("good; gone") for line in text)
    # What a client removes is none to be told of.
    (mirror.path / "vm1.img").unlink()
    (mirror.path / "beside.img").unlink()
    wait_for(lambda: "vm1.img" not in files(status(mirror.path, code=1)))


def test_incomplete_ones_come_first_whatever_their_size(mirror: Mirror) -> None:
    mirror.write("big.img", 0, DATA)
    wait_for_sessions(mirror, "big.img")
    mirror.write("small", 0, b"whole")
    wait_for_sessions(mirror, "small")
    leave_killed(mirror, "small", b"torn")
    wait_for_sessions(mirror, "small", 2)
    found = status(mirror.path, code=1)
    assert list(files(found)) == ["small", "big.img"]
    one = files(found)["small"]
    assert (one["state"], one["ended"], one["incomplete"]) == ("incomplete", "killed", True)
    assert one["last_good"] is not None
    text = lines(mirror.path, code=1)
    row = next(line for line in text if line.startswith("small"))
    assert "incomplete: killed " in row
    mirror.write("small", 0, b"whole again")
    wait_for_sessions(mirror, "small", 3)
    assert list(files(status(mirror.path, code=0))) == ["big.img"]


def test_what_is_unusual_is_told_and_ends_with_1(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    mirror.write("vm.img", 0, bytes(len(DATA)))
    wait_for_sessions(mirror, "vm.img", 2)
    one = files(status(mirror.path, code=1))["vm.img"]
    assert one["state"] == "good"
    assert one["unusual"] == "100 % of its data turned to zeros"
    assert any("good; unusual: 100 % of" in line for line in lines(mirror.path, code=1))


def test_a_file_that_was_left_with_a_temporary_name_is_told_by_both(mirror: Mirror) -> None:
    mirror.write(".vm.img.AbC123", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    found = files(status(mirror.path, code=1))
    assert list(found) == ["vm.img"]
    assert found["vm.img"]["left_as"] == ".vm.img.AbC123"
    assert (found["vm.img"]["state"], found["vm.img"]["gone"]) == ("never", False)
    text = lines(mirror.path, code=1)
    assert any(line.endswith("left as .vm.img.AbC123") for line in text)


def test_a_session_goes_on_while_the_mount_lives_and_has_died_with_its_daemon(
    mirror: Mirror,
) -> None:
    with open_session(mirror, "vm.img", DATA):
        one = files(status(mirror.path, code=0))["vm.img"]
        assert (one["ended"], one["incomplete"]) == ("running", False)
        mirror.kill()
        found = status(mirror.path, code=1)
        assert "is dead" in found["trouble"]
        one = files(found)["vm.img"]
        assert (one["state"], one["ended"], one["incomplete"]) == ("never", "daemon-died", True)
        assert one["size"] == len(DATA)
    mirrorfs("umount", mirror.path)
    found = status(mirror.backing, code=1)
    assert found["mount_point"] is None
    assert files(found)["vm.img"]["ended"] == "daemon-died"
    # It is the same to the next mount.
    mirror.mount()
    wait_for_sessions(mirror, "vm.img")
    assert files(status(mirror.path, code=1))["vm.img"]["ended"] == "daemon-died"


def test_by_another_path_to_the_backing_folder_a_daemon_is_seen_to_live(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "bound").mkdir()
    run("mount", "--bind", "--make-private", mirror.backing, tmp_path / "bound")
    try:
        with open_session(mirror, "vm.img", DATA):
            found = status(tmp_path / "bound", code=0)
            assert found["mount_point"] is None
            assert files(found)["vm.img"]["ended"] == "running"
            mirror.kill()
            found = status(tmp_path / "bound", code=1)
            assert files(found)["vm.img"]["ended"] == "daemon-died"
    finally:
        run("umount", tmp_path / "bound")


def test_a_file_that_was_good_stays_so_while_the_next_copy_runs(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    with open_session(mirror, "vm.img", DATA):
        one = files(status(mirror.path, code=0))["vm.img"]
        assert (one["state"], one["ended"]) == ("good", "running")
        assert any("good; running for " in line for line in lines(mirror.path, code=0))
    mirror.kill()


def test_a_backing_folder_need_not_be_mounted(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    through_the_backing_folder = status(mirror.backing, code=0)
    assert through_the_backing_folder["mount_point"] == str(mirror.path)
    mirror.umount()
    found = status(mirror.backing, code=0)
    assert found["mount_point"] is None
    assert files(found)["vm.img"]["state"] == "good"
    assert lines(mirror.backing, code=0)[0] == f"{mirror.backing}: not mounted"


def test_a_state_folder_elsewhere_is_named_where_nothing_is_mounted(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    mirror = mount_mirror(ext4_folder, f"session_quiet=0,state={state}")
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    assert files(status(mirror.path, code=0))["vm.img"]["state"] == "good"
    mirror.umount()
    done = mirrorfs("status", mirror.backing, check=False)
    assert done.returncode == ExitCode.NOT_A_MOUNT
    assert "pass --state DIR" in done.stderr
    assert files(status(mirror.backing, "--state", state, code=0))["vm.img"]["state"] == "good"


def test_over_itself_the_state_folder_must_be_elsewhere(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], tmp_path: Path
) -> None:
    mirror = mount_mirror(ext4_folder, "session_quiet=0")
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    mirror.umount()
    log = tmp_path / "log"
    try:
        mirrorfs("mount", ext4_folder, ext4_folder, "-o", f"log={log}")
        done = mirrorfs("status", ext4_folder, check=False)
        assert (done.returncode, done.stdout) == (ExitCode.STATE_DAMAGED, "")
        (said,) = done.stderr.splitlines()
        assert "mounted over itself" in said
        assert "-o state=DIR" in said
        mirrorfs("umount", ext4_folder)
        mirrorfs("mount", ext4_folder, ext4_folder, "-o", f"log={log},state={tmp_path}/state")
        found = status(ext4_folder, code=1)
        assert not found["remembered"]
        # It is seen through the mount, and no session is known there yet.
        assert files(found)["vm.img"]["state"] == "never"
    finally:
        run("umount", "--lazy", ext4_folder, check=False)
        wait_for(lambda: not ext4_folder.is_mount())


def test_a_mount_that_hangs_is_told_with_what_is_remembered(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    pid = mirror.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        found = status(mirror.path, code=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"kill -CONT {pid}" in found["trouble"]
    assert files(found)["vm.img"]["state"] == "good"


def test_names_of_any_bytes_stay_on_their_line(mirror: Mirror) -> None:
    name = b"a\n\xffb%.img"
    (mirror.backing / os.fsdecode(name)).write_bytes(DATA)
    assert list(files(status(mirror.path, code=1))) == ["a\n%FFb%25.img"]
    assert any(line.startswith(r"a\n\xffb%.img ") for line in lines(mirror.path, code=1))


def test_a_terminal_shows_what_fits(mirror: Mirror) -> None:
    for number in range(23):
        (mirror.backing / f"vm{number:02}.img").write_bytes(DATA)
    shown = on_a_terminal("status", mirror.path)
    assert sum("vm" in line and "never" in line for line in shown) == 20
    assert shown[-1].strip() == "and 3 more: --all"
    assert sum("never" in line for line in on_a_terminal("status", "--all", mirror.path)) == 23
    assert sum("never" in line for line in lines(mirror.path, code=1)) == 23


def on_a_terminal(*words: object) -> list[str]:
    """What a command writes on a terminal."""
    terminal, end = pty.openpty()
    with subprocess.Popen([*MIRRORFS, *map(str, words)], stdout=end, stderr=end):
        os.close(end)
        text = b""
        with contextlib.suppress(OSError):  # EIO is the end (pty(7))
            while piece := os.read(terminal, 1 << 16):
                text += piece
    os.close(terminal)
    return text.decode().splitlines()


def test_it_says_what_happens_if_all_files_fill_up(mirror: Mirror) -> None:
    system = os.statvfs(mirror.backing)
    free = system.f_bavail * system.f_frsize
    with (mirror.backing / "vm.img").open("wb") as file:
        file.truncate(free + 512 * MIB)
    space = status(mirror.path, code=1)["space"]
    assert space["missing_bytes"] == space["size_bytes"] - space["allocated_bytes"]
    assert space["short_bytes"] == space["missing_bytes"] - space["free_bytes"]
    assert abs(space["short_bytes"] - 512 * MIB) < 64 * MIB
    (line,) = (one for one in lines(mirror.path, code=1) if one.startswith("if all files"))
    assert line.endswith(" MiB short")
    os.truncate(mirror.backing / "vm.img", 64 * MIB)
    (line,) = (one for one in lines(mirror.path, code=1) if one.startswith("if all files"))
    assert line.startswith("if all files fill up: 64.0 MiB more are needed, ")
    assert line.endswith(" are free: enough")


def test_hard_links_are_counted_once(mirror: Mirror) -> None:
    (mirror.backing / "vm.img").write_bytes(DATA)
    os.link(mirror.backing / "vm.img", mirror.backing / "again.img")
    assert status(mirror.path, code=1)["space"]["size_bytes"] == len(DATA)


def test_what_btrfs_pins_is_told_where_all_of_it_is_the_backing_folder(
    tmp_path: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    with loop_mounted("btrfs", tmp_path, 512) as root:
        mirror = mount_mirror(root, "session_quiet=0")
        size = 64 * MIB
        mirror.write("vm.img", 0, os.urandom(size))
        wait_for_sessions(mirror, "vm.img")
        os.sync()
        before = status(mirror.path, code=0)["space"]["pinned_bytes"]
        for offset in range(0, size, MIB):
            mirror.write("vm.img", offset, bytes(MIB // 2))
        os.sync()

        def pinned() -> int:
            os.sync()
            found: int = json.loads(mirrorfs("status", "--json", mirror.path, check=False).stdout)[
                "space"
            ]["pinned_bytes"]
            return found

        # Half of it was punched, and stays used until all of an extent is gone.
        wait_for(lambda: pinned() > before + size // 4)
        done = mirrorfs("status", mirror.path, check=False)
        assert any(line.strip().startswith("pinned ") for line in done.stdout.splitlines())
        mirror.umount()
        (root / "inside").mkdir()
        inside = mount_mirror(root / "inside", "session_quiet=0")
        assert status(inside.path, code=0)["space"]["pinned_bytes"] is None
        inside.umount()


def test_a_mount_that_notes_nothing_says_why(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "history=0")
    mirror.write("small", 0, b"x")
    found = status(mirror.path, code=0)
    assert (found["remembered"], found["noted"]) == (False, False)
    assert any("history=0" in line for line in lines(mirror.path, code=0))


def test_every_mount_is_told_where_none_is_named(mirror: Mirror) -> None:
    done = mirrorfs("status", "--json", check=False)
    points = [json.loads(line)["mount_point"] for line in done.stdout.splitlines()]
    assert points.count(str(mirror.path)) == 1
    assert points == sorted(points)


def test_a_file_or_a_folder_that_is_nothing_of_ours_is_refused(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.write("vm.img", 0, b"x")
    (tmp_path / "plain").mkdir()
    for words, code, said in (
        ((mirror.path / "vm.img",), ExitCode.USAGE, "'mirrorfs history' takes files"),
        ((tmp_path / "plain",), ExitCode.NOT_A_MOUNT, "neither in a mirrorfs mount nor in a back"),
        ((tmp_path / "none",), ExitCode.FAILED, "no such file or folder"),
        (("--state", tmp_path), ExitCode.USAGE, "name the backing folder, too"),
    ):
        done = mirrorfs("status", *words, check=False)
        assert (done.returncode, done.stdout) == (code, "")
        (line,) = done.stderr.splitlines()
        assert said in line


def test_a_damaged_catalog_is_named(mirror: Mirror) -> None:
    mirror.write("vm.img", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    mirror.umount()
    for left in (mirror.backing / ".mirrorfs").glob("catalog.sqlite3-*"):
        left.unlink()
    (mirror.backing / ".mirrorfs/catalog.sqlite3").write_bytes(b"no catalog" * 1000)
    done = mirrorfs("status", mirror.backing, check=False)
    assert done.returncode == ExitCode.STATE_DAMAGED
    (line,) = done.stderr.splitlines()
    assert "catalog.sqlite3: cannot be read" in line
