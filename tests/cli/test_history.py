"""`mirrorfs history`: the sessions that were noted, the last one first."""

from __future__ import annotations

import datetime
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.errors import ExitCode
from tests.commands import as_nobody, mirrorfs, run, wait_for
from tests.remembered import leave_killed, noted, open_session, wait_for_sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mirror

CHUNK = 1 << 16
DATA = os.urandom(8 * CHUNK)


@pytest.fixture
def mirror(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> Mirror:
    return mount_mirror(ext4_folder, "session_quiet=0", noisy=True)


def history(*words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in mirrorfs("history", "--json", *words).stdout.splitlines()]


def told(*words: object) -> list[tuple[str, str]]:
    return [(one["file"], one["ended"]) for one in history(*words)]


def refused(code: ExitCode, *words: object) -> str:
    done = mirrorfs("history", *words, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    return line


def write(mirror: Mirror, name: str, data: bytes = DATA, count: int = 1) -> None:
    mirror.write(name, 0, data)
    wait_for_sessions(mirror, name, count)


def test_sessions_are_told_the_last_one_first(mirror: Mirror) -> None:
    write(mirror, "a.img")
    write(mirror, "b.img")
    write(mirror, "a.img", DATA[:CHUNK][::-1], count=2)
    found = history(mirror.path)
    assert [one["file"] for one in found] == ["a.img", "b.img", "a.img"]
    assert all(one["schema"] == 1 and one["ended"] == "closed" for one in found)
    assert found[0]["mount_point"] == str(mirror.path)
    assert found[0]["counters"]["received_bytes"] == CHUNK
    assert found[0]["changed_share"] == 0.125
    begun = [one["begin"] for one in found]
    assert begun == sorted(begun, reverse=True)
    text = mirrorfs("history", mirror.path).stdout.splitlines()
    assert len(text) == 4
    assert text[0].split() == "BEGIN TOOK SIZE RECEIVED WROTE CHANGED ENDED PROGRAM FILE".split()
    assert " 512 KiB 64.0 KiB 64.0 KiB     12 % closed " in text[1]
    assert text[1].endswith(" a.img")


def test_a_file_may_be_named_through_the_mount_or_below_it(mirror: Mirror) -> None:
    (mirror.path / "kvm1").mkdir()
    (mirror.path / "kvm10").mkdir()
    write(mirror, "kvm1/a.img")
    write(mirror, "kvm10/b.img")
    expected = [("kvm1/a.img", "closed")]
    for folder in (mirror.path, mirror.backing):
        assert told(folder / "kvm1/a.img") == expected
        assert told(folder / "kvm1") == expected
        assert len(told(folder)) == 2
    mirror.umount()
    assert told(mirror.backing / "kvm1/a.img") == expected
    assert told(mirror.backing / "kvm1") == expected
    assert len(told(mirror.backing)) == 2
    # Also of what is there no more.
    (mirror.backing / "kvm1/a.img").unlink()
    assert told(mirror.backing / "kvm1/a.img") == expected
    assert "no such file, and no session" in refused(ExitCode.FAILED, mirror.backing / "kvm1/c")
    (mirror.backing / "kvm1/c").write_bytes(b"x")
    assert told(mirror.backing / "kvm1/c") == []


def test_a_file_in_a_part_of_the_mount_that_is_bound_elsewhere(
    mirror: Mirror, tmp_path: Path
) -> None:
    (mirror.path / "kvm1").mkdir()
    write(mirror, "kvm1/a.img")
    write(mirror, "b.img")
    (tmp_path / "part").mkdir()
    run("mount", "--bind", mirror.path / "kvm1", tmp_path / "part")
    try:
        assert told(tmp_path / "part/a.img") == [("kvm1/a.img", "closed")]
        assert told(tmp_path / "part") == [("kvm1/a.img", "closed")]
    finally:
        run("umount", tmp_path / "part")


def test_since_and_limit_leave_out_what_is_older(mirror: Mirror) -> None:
    write(mirror, "a.img")
    write(mirror, "b.img")
    begin = noted(mirror, "b.img")[0].as_dict()["begin"]
    assert told(mirror.path, "--since", begin) == [("b.img", "closed")]
    assert len(told(mirror.path, "--since", "1h")) == 2
    assert told(mirror.path, "--since", "0s") == []
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)
    assert told(mirror.path, "--since", tomorrow) == []
    assert told(mirror.path, "--limit", 1) == [("b.img", "closed")]


def test_incomplete_ones_alone(mirror: Mirror) -> None:
    write(mirror, "a.img")
    leave_killed(mirror, "b.img")
    wait_for_sessions(mirror, "b.img")
    assert told(mirror.path, "--incomplete") == [("b.img", "killed")]
    assert "killed" in mirrorfs("history", mirror.path, "--incomplete").stdout.splitlines()[1]
    assert told(mirror.path / "a.img", "--incomplete") == []


def test_what_is_under_way_runs_or_has_died_with_its_daemon(mirror: Mirror) -> None:
    write(mirror, "a.img")
    with open_session(mirror, "b.img", DATA):
        expected = [("b.img", "running"), ("a.img", "closed")]
        assert told(mirror.path) == expected
        assert told(mirror.path / "b.img") == expected[:1]
        assert told(mirror.path / "a.img") == expected[1:]
        assert told(mirror.path, "--incomplete") == []
        text = mirrorfs("history", mirror.path).stdout.splitlines()
        assert "running" in text[1]
        mirror.kill()
    done = mirrorfs("history", "--json", "--incomplete", mirror.path)
    (line,) = done.stdout.splitlines()
    assert (json.loads(line)["file"], json.loads(line)["ended"]) == ("b.img", "daemon-died")
    assert "is dead" in done.stderr


def test_ranges_are_in_bytes_of_the_file(mirror: Mirror) -> None:
    write(mirror, "a.img")
    with (mirror.path / "a.img").open("r+b", buffering=0) as file:
        file.seek(CHUNK + 1)
        file.write(DATA[:1])
        file.seek(4 * CHUNK)
        file.write(DATA[: 2 * CHUNK])
    wait_for_sessions(mirror, "a.img", 2)
    changed, first = history("--ranges", mirror.path)
    assert first["ranges"] == [[0, 8 * CHUNK]]
    assert changed["ranges"] == [[CHUNK, 2 * CHUNK], [4 * CHUNK, 6 * CHUNK]]
    assert "ranges" not in history(mirror.path)[0]
    assert "--json" in refused(ExitCode.USAGE, "--ranges", mirror.path)


def test_a_temporary_name_is_told_beside_the_file_it_is_of(mirror: Mirror) -> None:
    mirror.write(".vm.img.AbC123", 0, DATA)
    wait_for_sessions(mirror, "vm.img")
    assert history(mirror.path)[0]["written_as"] == ".vm.img.AbC123"
    assert mirrorfs("history", mirror.path).stdout.rstrip().endswith("(left as .vm.img.AbC123)")


def test_names_of_any_bytes_stay_on_their_line(mirror: Mirror) -> None:
    name = os.fsdecode(b"a\n\xffb%")
    mirror.write(name, 0, DATA)
    wait_for(lambda: told(mirror.path)[:1] == [("a\n%FFb%25", "closed")])
    assert told(mirror.path / name) == [("a\n%FFb%25", "closed")]
    assert mirrorfs("history", mirror.path).stdout.splitlines()[1].endswith(r" a\n\xffb%")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "yesterday"), "--since: 'yesterday' is no time"),
        (("--limit", "0"), "--limit: '0' is no number"),
        (("--limit", "many"), "--limit: 'many' is no number"),
        (("--limit", "9" * 5000), "--limit: '999"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_a_word_that_makes_no_sense_is_named(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in refused(ExitCode.USAGE, tmp_path, *words)


def test_a_folder_that_nothing_is_remembered_of(tmp_path: Path) -> None:
    assert "neither in a mirrorfs mount nor in a" in refused(ExitCode.NOT_A_MOUNT, tmp_path)


@pytest.mark.usefixtures("fuse_for_all")
def test_another_user_is_told_that_the_history_is_not_theirs(
    mirror: Mirror,
) -> None:
    write(mirror, "a.img")
    mirror.backing.chmod(0o755)
    folder = mirror.backing
    while folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    mirror.umount()
    done = as_nobody("history", mirror.backing, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.STATE_DAMAGED, "")
    (line,) = done.stderr.splitlines()
    assert "Permission denied; run this as its owner" in line
