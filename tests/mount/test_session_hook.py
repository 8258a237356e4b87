"""The user's command after each session."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.daemon import session_hook
from tests.commands import mirrorfs, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mounted import Mirror


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which anyone may write."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    made = tmp_path / "hook"
    made.mkdir()
    made.chmod(0o777)
    return made


def script(place: Path, text: str) -> Path:
    path = place / "hook.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_it_gets_the_session_as_json_without_privileges(
    ext4_folder: Path, place: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    path = script(place, f'cat > {place}/got; id -u > {place}/who; id -G >> {place}/who; echo "$1"')
    mirror = mount_mirror(ext4_folder, f"session_quiet=0,on_session={path} 'one word'")
    mirror.write("vm.img", 0, b"x" * 5000)
    wait_for((place / "who").exists)
    wait_for(lambda: (place / "who").read_text().count("\n") == 2)
    found = json.loads((place / "got").read_bytes())
    assert (found["schema"], found["file"], found["ended"]) == (1, "vm.img", "closed")
    assert (found["mount_point"], found["backing"]) == (str(mirror.path), str(ext4_folder))
    assert found["counters"]["written_bytes"] == 5000
    assert (place / "who").read_text() == "65534\n65534\n"
    assert stat.S_IMODE((place / "got").stat().st_mode) == 0o600


def test_one_that_fails_is_a_line_in_the_log_and_nothing_else(
    ext4_folder: Path, place: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    path = script(place, "echo no network >&2; exit 3")
    mirror = mount_mirror(ext4_folder, f"session_quiet=0,on_session={path}", noisy=True)
    for name in ("a", "b"):
        mirror.write(name, 0, b"x" * 5000)
    wait_for(lambda: len(json.loads(mirror.read(".mirrorfs/history.json"))["sessions"]) == 2)
    mirror.umount()
    [line] = mirror.troubles()
    assert line.endswith(f"on_session={path}: ended with 3: no network")


def test_one_that_says_too_much_is_cut_short(
    ext4_folder: Path, place: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    path = script(place, "head -c 100M /dev/zero | tr '\\0' y >&2; exit 1")
    mirror = mount_mirror(ext4_folder, f"session_quiet=0,on_session={path}", noisy=True)
    mirror.write("a", 0, b"x" * 5000)
    wait_for(mirror.troubles)
    assert mirror.troubles()[0].endswith("ended with 1: " + "y" * 200)
    status = Path(f"/proc/{mirror.pid}/status").read_text()
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 100 << 10


def test_one_that_hangs_is_killed_with_its_children(
    ext4_folder: Path,
    place: Path,
    mount_mirror: Callable[..., Mirror],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = script(
        place, f"sleep 1000 & echo $! > {place}/child.new; mv {place}/child.new {place}/child; wait"
    )
    mirror = mount_mirror(ext4_folder, f"session_quiet=0,on_session={path}", noisy=True)
    mirror.write("a", 0, b"x" * 5000)
    wait_for((place / "child").exists)
    child = int((place / "child").read_text())
    mirror.write("b", 0, b"x" * 5000)  # it waits for nobody
    assert mirror.read("b") == b"x" * 5000
    wait_for(lambda: not os.path.exists(f"/proc/{child}"))
    wait_for(mirror.troubles)
    assert mirror.troubles()[0].endswith("took longer than 10 seconds")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("on_session=touch x", "must begin with the path of a program"),
        ("on_session=/usr/bin/touch 'x", "No closing quotation"),
        ("on_session=/no/such/program", "/no/such/program is no program that can be run"),
        ("on_session=/usr", "/usr is no program that can be run"),
        ("on_session=/bin/true,on_session_user=nosuchuser", "there is no user 'nosuchuser'"),
        ("on_session=/bin/true,history=0", "with history=0 there are no sessions"),
        ("on_session", "option on_session needs a value"),
        ("history=many", "'many' is not a number of days"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(tmp_path: Path, options: str, reason: str) -> None:
    (tmp_path / "mirror").mkdir()
    done = mirrorfs("mount", tmp_path, tmp_path / "mirror", "-o", options, check=False)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_waits_too_long_is_dropped_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mirrorfs.catalog.session import Session

    monkeypatch.setattr(session_hook, "_MAX_WAITING", 2)
    hook = session_hook.SessionHook(session_hook.Hook(["/bin/true"], None, "/"), b"/m", b"/b")
    for number in range(5):  # it was not started: nothing is taken out
        hook.put(Session(b"x", number, "cp", 0))
    hook.close()
    [record] = caplog.records
    assert record.getMessage().startswith("on_session was not run for 5 sessions")
