"""Commands where something is wrong: a daemon that hangs or is dead, a terminal or a reader that
goes away, streams that are closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import mounts
from mirrorfs.daemon import processes, timed_calls
from mirrorfs.errors import ExitCode
from tests.commands import MIRRORFS, as_nobody, mirrorfs, run, wait_for, wait_until_it_listens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.mounted import Mirror

# The limit of one answer, and what a busy machine may be late.
PATIENCE = timed_calls.ANSWER_SECONDS + 80


@contextlib.contextmanager
def stopped(mirror: Mirror) -> Iterator[int]:
    """Let the daemon not answer meanwhile, nor the kernel for it: `attr_timeout` is over."""
    pid = mirror.pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.2)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def start(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MIRRORFS, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


@pytest.fixture
def two(ext4_folder: Path, mount_mirror: Callable[..., Mirror]) -> tuple[Mirror, Mirror]:
    """Two mounts with names that sort in this order."""
    for name in ("a", "b"):
        (ext4_folder / name).mkdir()
    return mount_mirror(ext4_folder / "a"), mount_mirror(ext4_folder / "b")


def test_no_command_waits_for_a_daemon_that_hangs(
    two: tuple[Mirror, Mirror], tmp_path: Path
) -> None:
    hung, well = two
    hung.write("file", 0, b"x")
    (tmp_path / "link").symlink_to(hung.path)
    with stopped(hung) as pid:
        commands = [
            start("stats", hung.path),
            start("stats", hung.path / "file"),
            start("stats", tmp_path / "link"),
            start("umount", hung.path),
            start("mount", tmp_path, hung.path),
            start("mount", hung.path, tmp_path / "other"),
        ]
        every = start("stats")
        for code, out, err in map(outcome, commands):
            assert (code, out) == (ExitCode.NO_ANSWER, "")
            (line,) = err.splitlines()
            assert line.startswith(f"mirrorfs: {hung.path}")
        assert f"kill -CONT {pid}" in err or "hangs" in err
        code, out, err = outcome(every)
        assert code == ExitCode.NO_ANSWER
        assert str(well.path) in out
        assert f"{hung.path}: the mirrorfs here does not answer" in err
        assert hung.path.name in os.listdir(tmp_path)
    assert mirrorfs("stats", hung.path).returncode == 0


def test_umount_lazy_takes_a_hung_mount_away_without_its_answer(mirror: Mirror) -> None:
    with stopped(mirror) as pid:
        code, _, err = outcome(start("umount", "--lazy", mirror.path))
        assert code == 0
        assert f"kill -CONT {pid}" in err
        assert not mirror.path.is_mount()
    wait_for(lambda: not processes.is_mirrorfs(pid))


def test_stats_does_not_wait_for_a_request_that_a_hung_daemon_has_taken(
    two: tuple[Mirror, Mirror],
) -> None:
    """The outer daemon takes the request, and hangs with it in the inner mount: the process that
    sent it cannot be killed.
    """
    outer, inner = two
    (outer.backing / "inner").mkdir()
    run("mount", "--bind", inner.path, outer.backing / "inner")
    try:
        with stopped(inner):
            path = outer.path / "inner/file"
            done = subprocess.run(
                f"{' '.join(MIRRORFS)} stats {path} 2>&1 | cat",
                shell=True,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert "no answer" in done.stdout or "does not answer" in done.stdout
    finally:
        run("umount", "--lazy", outer.backing / "inner")


def test_stats_calls_a_dead_mount_dead_and_goes_on_with_the_others(
    two: tuple[Mirror, Mirror],
) -> None:
    dead, well = two
    dead.kill()
    code, _, err = outcome(start("stats", dead.path))
    assert code == ExitCode.NO_ANSWER
    (line,) = err.splitlines()
    assert line.startswith(f"mirrorfs: {dead.path}: the daemon of this mirrorfs is dead")
    assert f"mirrorfs umount {dead.path}" in line
    code, out, err = outcome(start("stats", "--json"))
    assert code == ExitCode.NO_ANSWER
    assert str(well.path) in [json.loads(line)["mount_point"] for line in out.splitlines()]
    assert line in err.splitlines()
    dead.mount()
    assert mirrorfs("stats", dead.path).returncode == 0


@pytest.mark.usefixtures("fuse_for_all")
def test_commands_of_an_ordinary_user_do_not_wait_for_a_hung_daemon() -> None:
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    point, backing = base / "point", base / "backing"
    for folder in (point, backing):
        folder.mkdir()
        os.chown(folder, 65534, 65534)
    as_nobody("mount", backing, point, "-o", f"log={backing}/log")
    mount = mounts.mounted_at(os.fsencode(point))
    assert mount is not None
    pid = processes.daemon_of(mount)
    assert pid is not None
    try:
        # Not even root may look in; that is said, and ends nothing.
        done = mirrorfs("stats", point, check=False)
        assert done.returncode == ExitCode.FAILED
        assert "as the user who mounted it" in done.stderr
        every = mirrorfs("stats", check=False)
        assert f"{point}: you may not look in" in every.stderr
        assert every.returncode != ExitCode.FAILED
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.2)
        done = as_nobody("stats", point, check=False)
        assert done.returncode == ExitCode.NO_ANSWER, done.stderr
        assert "umount --lazy" in done.stderr
        as_nobody("umount", "--lazy", point)
        assert str(point) not in Path("/proc/self/mountinfo").read_text()
    finally:
        os.kill(pid, signal.SIGCONT)
        run("umount", "--lazy", point, check=False)
        run("rm", "-r", base)


@pytest.mark.parametrize("words", [[], ["--lazy"]])
def test_umount_removes_a_dead_mount(mirror: Mirror, words: list[str]) -> None:
    mirror.kill()
    mirrorfs("umount", *words, mirror.path)
    assert not mirror.path.is_mount()


def test_mount_replaces_a_dead_mount_and_says_so(mirror: Mirror) -> None:
    mirror.kill()
    done = mirrorfs("mount", mirror.backing, mirror.path, "-o", f"log={mirror.log}")
    said = f"{mirror.path}: the daemon before this one was dead; removed what it left"
    assert done.stderr == f"mirrorfs: {said}\n"
    lines = mirror.log.read_text().splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.endswith(f" INFO {said}"))
    assert f"{mirror.path}: mounted " in lines[place - 1]


def test_the_daemon_of_a_mount_is_found_in_proc(two: tuple[Mirror, Mirror]) -> None:
    for mirror in two:
        mount = mounts.mounted_at(os.fsencode(mirror.path))
        assert mount is not None
        assert processes.daemon_of(mount) == mirror.pid
        assert processes.holders(mount) == []


def test_the_daemon_keeps_no_lock_or_pipe_of_the_command(
    two: tuple[Mirror, Mirror], tmp_path: Path
) -> None:
    mirror, _ = two
    mirror.umount()
    mount = " ".join([*MIRRORFS, "mount", str(mirror.backing), str(mirror.path)])
    lock = tmp_path / "lock"
    script = f"""
        ( flock -n 9 && {mount} -o log={mirror.log} ) 9>{lock}
        flock -n {lock} true && echo free
    """
    done = run("bash", "-c", script, timeout=100)
    assert done.stdout == "free\n"
    kept = {os.readlink(link) for link in os.scandir(f"/proc/{mirror.pid}/fd")}
    assert str(lock) not in kept
    assert {str(mirror.log), str(mirror.backing), "/dev/fuse", "/dev/null"} <= kept
    assert "mounted" in mirror.log.read_text()
    mirror.umount()
    run("bash", "-c", f"{mount} -o log={mirror.log} 3>&1 | cat", timeout=100)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_commands_work_with_closed_streams(two: tuple[Mirror, Mirror], closed: str) -> None:
    mirror, _ = two
    mirror.umount()
    for words in (f"mount {mirror.backing} {mirror.path} -o log={mirror.log}", "stats", "umount"):
        command = words if "-o" in words else f"{words} {mirror.path}"
        done = run("bash", "-c", f"{' '.join(MIRRORFS)} {command} {closed}", timeout=100)
        assert done.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_commands_end_quietly_when_their_reader_has_gone(mirror: Mirror, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for words in (f"stats {mirror.path}", "stats", "--help", "stats --json"):
        script = f"{' '.join(MIRRORFS)} {words} | true; exit ${{PIPESTATUS[0]}}"
        done = run("bash", "-c", script, check=False, timeout=100, env=environment)
        # Mounts of others, which 'stats' lists, too, may be in trouble.
        assert done.returncode in {0, 128 + signal.SIGPIPE, ExitCode.NO_ANSWER}
        assert not re.search(f"Traceback|[Pp]ipe|{mirror.path}", done.stderr)
    script = f"{' '.join(MIRRORFS)} stats {mirror.path} > /dev/full"
    done = run("bash", "-c", script, check=False, timeout=100, env=environment)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "mirrorfs: standard output: No space left on device\n"


def test_stats_shows_a_name_that_is_no_utf8(ext4_folder: Path, tmp_path: Path) -> None:
    point = os.fsencode(tmp_path) + b"/point\xff"
    os.mkdir(point)
    mirrorfs("mount", ext4_folder, os.fsdecode(point), "-o", f"log={tmp_path}/log")
    try:
        assert "point\\xff" in mirrorfs("stats", os.fsdecode(point)).stdout
    finally:
        mirrorfs("umount", os.fsdecode(point))


def has_child(process: subprocess.Popen[str]) -> bool:
    """Whether a command has a child process, or has ended."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return process.poll() is not None or bool(children.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["it begins", "it has a child", "it is mounted"])
def test_an_interrupted_mount_is_whole_or_not_there(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], moment: str, number: signal.Signals
) -> None:
    mirror = mount_mirror(ext4_folder, noisy=True)
    mirror.umount()
    process = start("mount", mirror.backing, mirror.path, "-o", f"log={mirror.log}")
    wait_until_it_listens(process)
    if moment == "it has a child":
        wait_for(lambda: has_child(process))
    elif moment == "it is mounted":
        wait_for(mirror.path.is_mount)
    process.send_signal(number)
    code, _, err = outcome(process)
    assert code in {0, 128 + number}
    assert "Traceback" not in err
    assert mirror.path.is_mount() == (code == 0)
    if code == 0:
        os.statvfs(mirror.path)
    else:
        mirror.mount()  # no daemon has the folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["it begins", "it is mounted"])
def test_an_interrupted_mount_in_the_foreground_is_gone(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    backing, point = tmp_path / "backing", tmp_path / "point"
    backing.mkdir()
    point.mkdir()
    process = start("mount", backing, point, "-f")
    wait_until_it_listens(process)
    if moment == "it is mounted":  # but does not answer yet, perhaps
        wait_for(point.is_mount)
    process.send_signal(number)
    code, _, err = outcome(process)
    assert code == 0 if moment == "it is mounted" else code in {0, 128 + number}
    assert "Traceback" not in err
    assert not point.is_mount()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_that_waits_for_a_hung_mount(
    ext4_folder: Path, mount_mirror: Callable[..., Mirror], number: signal.Signals
) -> None:
    mirror = mount_mirror(ext4_folder)
    with stopped(mirror):
        for command in ("stats", "umount"):
            process = start(command, mirror.path)
            wait_until_it_listens(process)
            wait_for(partial(has_child, process))
            process.send_signal(number)
            assert outcome(process) == (128 + number, "", "")
    assert mirror.path.is_mount()


def test_a_signal_in_a_callback_of_the_import_system_is_not_lost() -> None:
    """Python drops what such a callback raises, and prints it."""
    code = """
import os, signal, sys, time
from mirrorfs.cli import main
signal.signal(signal.SIGTERM, main._end)
source = '''
import os, signal
def callback():
    os.kill(os.getpid(), signal.SIGTERM)
    sum(range(99))
'''
names = {}
exec(compile(source, "<frozen importlib._bootstrap>", "exec"), names)
class Dies:
    def __del__(self):
        names["callback"]()
Dies()
time.sleep(60)
"""
    done = run(MIRRORFS[0], "-c", code, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
