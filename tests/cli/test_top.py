"""`mirrorfs top`: line by line, with mounts that come, go, hang and die."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, as_nobody, mirrorfs, run, spelled, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.mounted import Mirror

MIB = 1 << 20
_SECONDS = 60


class Lines:
    """What `mirrorfs top` prints, as it comes."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            spelled([*MIRRORFS, "top", *words]), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._rest = b""

    def next(self) -> str:
        """The next line; fails the test if none comes."""
        assert self.process.stdout is not None
        end = time.monotonic() + _SECONDS
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], end - time.monotonic())
            piece = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                pytest.fail(f"no line within {_SECONDS} seconds, or the end")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def objects(self) -> Iterator[dict[str, Any]]:
        """Each line, which is JSON, for a while."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            yield json.loads(self.next())
        pytest.fail(f"not so within {_SECONDS} seconds")

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, err.decode()


@contextlib.contextmanager
def top(*words: object) -> Iterator[Lines]:
    lines = Lines(*words)
    try:
        yield lines
    finally:
        lines.process.kill()
        lines.process.communicate()


@pytest.fixture
def two(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> tuple[Mirror, Mirror]:
    for name in ("a", "b"):
        (ext4_folder / name).mkdir()
    return mount_mirror(ext4_folder / "a"), mount_mirror(ext4_folder / "b")


def test_the_rates_add_up_to_what_was_received(two: tuple[Mirror, Mirror]) -> None:
    mirror, _ = two
    with top(mirror.path, "--json", "--interval", "0.2") as lines:
        first = json.loads(lines.next())
        assert first["schema"] == 1
        assert first["mount_point"] == str(mirror.path)
        assert first["received_bytes_per_second"] == 0
        assert (first["not_written"], first["problem"], first["errors"]) == (None, None, {})
        mirror.write("vm.img", 0, b"x" * 4 * MIB)
        mirror.write("vm.img", 0, b"x" * 4 * MIB)
        assert mirror.read("vm.img") == b"x" * 4 * MIB
        with pytest.raises(OSError):
            os.mkdir(mirror.path / ".mirrorfs" / "folder")
        sums = dict.fromkeys(("received", "written", "read"), 0.0)
        new_errors, files, shares = 0, set(), set()
        for found in lines.objects():
            for name in sums:
                sums[name] += found[f"{name}_bytes_per_second"] * found["seconds"]
            new_errors += found["new_errors"]
            files |= {file["file"] for file in found["files"] or []}
            shares.add(found["not_written"])
            if sums["read"] and new_errors and files:
                break
        free = os.statvfs(mirror.path)
        assert found["free_bytes"] == pytest.approx(free.f_bavail * free.f_frsize, rel=0.5)
    assert sums == pytest.approx({"received": 8 * MIB, "written": 4 * MIB, "read": 4 * MIB}, 0.05)
    assert (new_errors, found["errors"], files) == (1, {"EPERM": 1}, {"vm.img"})
    shares.discard(None)
    assert shares
    assert all(0 <= share <= 1 for share in shares)


def test_plain_lines_come_for_each_mount_and_interval_and_end(two: tuple[Mirror, Mirror]) -> None:
    done = mirrorfs("top", two[0].path, two[1].path, "--count", "2", "--interval", "0.1")
    line = re.compile(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (\S+): received 0 B/s, written 0 B/s, "
        r"read 0 B/s, errors 0, free [\d.]+ [MG]iB"
    )
    places = [match[1] for match in map(line.fullmatch, done.stdout.splitlines()) if match]
    assert sorted(places) == sorted([str(mirror.path) for mirror in two] * 2)
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == ""


def test_a_mount_that_hangs_holds_up_no_other_and_may_go_on(two: tuple[Mirror, Mirror]) -> None:
    hung, well = two
    with top(hung.path, well.path, "--json", "--interval", "0.2") as lines:
        pid = hung.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            lines_of_well = 0
            for found in lines.objects():
                if found["mount_point"] == str(well.path):
                    lines_of_well += found["problem"] is None
                elif found["problem"]:
                    break
            assert found["problem"].startswith(
                f"{hung.path}: the mirrorfs here does not answer: process {pid} is stopped"
            )
            assert found["received_bytes_per_second"] is None
            assert (found["errors"], found["free_bytes"], found["files"]) == (None, None, None)
            # The other went on before, and goes on now.
            assert lines_of_well > 1
            for found in lines.objects():
                if found["mount_point"] == str(well.path) and not found["problem"]:
                    break
        finally:
            os.kill(pid, signal.SIGCONT)
        for found in lines.objects():
            hung.write("file", 0, b"x" * MIB)
            if found["mount_point"] == str(hung.path) and found["received_bytes_per_second"]:
                break
        assert found["problem"] is None


def test_with_a_count_a_mount_that_does_not_answer_decides_the_exit_code(
    two: tuple[Mirror, Mirror],
) -> None:
    dead, well = two
    dead.kill()
    words = ("top", dead.path, well.path, "--count", "2", "--interval", "0.1")
    done = mirrorfs(*words, check=False)
    assert done.returncode == ExitCode.NO_ANSWER
    told = [line for line in done.stdout.splitlines() if str(dead.path) in line]
    assert len(told) == 2
    assert all("the daemon of this mirrorfs is dead" in line for line in told)
    assert len(done.stdout.splitlines()) == 4
    dead.mount()
    assert mirrorfs(*words).returncode == 0


def test_a_mount_that_is_unmounted_goes_away_and_with_the_last_one_it_ends(
    two: tuple[Mirror, Mirror],
) -> None:
    first, last = two
    with top(first.path, last.path, "--json", "--interval", "0.1") as lines:
        seen = set()
        for found in lines.objects():
            seen.add(found["mount_point"])
            if seen == {str(first.path), str(last.path)}:
                break
        first.umount()
        in_a_row = 0
        for found in lines.objects():
            in_a_row = in_a_row + 1 if found["mount_point"] == str(last.path) else 0
            if in_a_row == 5:
                break
        last.umount()
        assert lines.end() == (
            ExitCode.NOT_A_MOUNT,
            "mirrorfs: no mirrorfs is mounted here any more\n",
        )


def test_a_mount_that_comes_back_is_shown_again(two: tuple[Mirror, Mirror]) -> None:
    again, other = two
    with top(again.path, other.path, "--json", "--interval", "0.1") as lines:
        lines.next()
        again.umount()
        again.mount()
        for found in lines.objects():
            again.write("file", 0, b"x" * MIB)
            if found["mount_point"] == str(again.path) and found["received_bytes_per_second"]:
                break


def test_without_a_mount_point_all_mounts_are_shown(two: tuple[Mirror, Mirror]) -> None:
    done = mirrorfs("top", "--json", "--count", "1", "--interval", "0.1", check=False)
    shown = {json.loads(line)["mount_point"] for line in done.stdout.splitlines()}
    assert {str(mirror.path) for mirror in two} <= shown


@pytest.mark.usefixtures("fuse_for_all")
def test_files_are_for_the_user_who_mounted_and_mounts_may_be_private() -> None:
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    of_root, of_nobody = base / "of-root", base / "of-nobody"
    for folder in (of_root, of_nobody, base / "one", base / "other"):
        folder.mkdir()
    for folder in (of_nobody, base / "other"):
        os.chown(folder, 65534, 65534)
    words = ("--json", "--count", "1", "--interval", "0.1")
    try:
        mirrorfs("mount", base / "one", of_root, "-o", f"log={base}/log")
        as_nobody("mount", base / "other", of_nobody, "-o", f"log={base}/other/log")
        found = json.loads(as_nobody("top", of_root, *words).stdout)
        assert found["received_bytes_per_second"] == 0
        assert found["files"] is None
        assert found["files_problem"] == "only the user who mounted it, or root, may see its files"
        found = json.loads(as_nobody("top", of_nobody, *words).stdout)
        assert (found["problem"], found["files_problem"]) == (None, None)
        # Not even root may look in; that is no failure.
        found = json.loads(mirrorfs("top", of_nobody, *words).stdout)
        assert found["problem"].startswith(f"{of_nobody}: you may not look in")
        assert found["received_bytes_per_second"] is None
    finally:
        run("umount", of_root, check=False)
        as_nobody("umount", of_nobody, check=False)
        run("rm", "-r", base)


def test_the_control_folder_may_have_another_name(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror]
) -> None:
    mirror = mount_mirror(ext4_folder, "control=.account")
    with top(mirror.path, "--json", "--interval", "0.1") as lines:
        for found in lines.objects():
            mirror.write("file", 0, b"x")
            if found["files"]:
                break
        assert found["files"][0]["file"] == "file"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--interval", "0"), "'0' is no number of seconds from 0.1 to 3600"),
        (("--interval", "nan"), "'nan' is no number of seconds"),
        (("--interval", "fast"), "'fast' is no number of seconds"),
        (("--count", "0"), "'0' is no number above 0"),
        (("--count", "1.5"), "'1.5' is no number above 0"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(words: tuple[str, str], message: str) -> None:
    done = mirrorfs("top", *words, check=False)
    assert done.returncode == ExitCode.USAGE
    (line,) = done.stderr.splitlines()
    assert message in line
    assert line.endswith("see 'mirrorfs top --help'")


def test_a_place_that_is_no_mount_is_refused_by_name(tmp_path: Path) -> None:
    done = mirrorfs("top", tmp_path, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.NOT_A_MOUNT, "")
    assert done.stderr.startswith(f"mirrorfs: {tmp_path}: not a mirrorfs mount")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_quietly_also_where_a_mount_hangs(
    two: tuple[Mirror, Mirror], number: signal.Signals
) -> None:
    hung, well = two
    pid = hung.pid
    with top(hung.path, well.path, "--interval", "0.1") as lines:
        lines.next()
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: "does not answer" in lines.next())
            lines.process.send_signal(number)
            assert lines.end() == (128 + number, "")
        finally:
            os.kill(pid, signal.SIGCONT)


def test_it_ends_quietly_when_its_reader_has_gone(two: tuple[Mirror, Mirror]) -> None:
    command = " ".join(spelled([*MIRRORFS, "top", two[0].path, "--interval", "0.1"]))
    done = run("bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}", check=False)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
