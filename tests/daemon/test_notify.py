"""What a service manager is told, by a socket as systemd has it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import trio

from mirrorfs.daemon import notify
from mirrorfs.daemon.notify import Notifier
from tests.commands import MIRRORFS, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """The socket of a service manager, in the file system or abstract."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(60)

    def lines(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(65536).decode().split("\n")

    def until(self, wanted: str) -> list[str]:
        """All lines up to one that begins with `wanted`."""
        found: list[str] = []
        while not any(line.startswith(wanted) for line in found):
            found += self.lines()
        return found


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = f"@mirrorfs-tests-{os.getpid()}-{time.monotonic_ns()}"
    manager = Manager(str(tmp_path / "notify") if request.param == "file" else abstract)
    yield manager
    manager.socket.close()


@contextlib.contextmanager
def served(
    manager: Manager, backing: Path, point: Path, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A mount in the foreground, as a service manager starts it."""
    point.mkdir()
    process = subprocess.Popen(
        [*MIRRORFS, "mount", "-f", str(backing), str(point), "-o", "session_quiet=0"],
        env={**os.environ, "NOTIFY_SOCKET": manager.address, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)


def test_a_mount_from_its_beginning_to_its_end(
    manager: Manager, ext4_folder: Path, tmp_path: Path
) -> None:
    point = tmp_path / "mirror"
    with served(manager, ext4_folder, point) as process:
        # Ready means that it answers.
        assert manager.lines() == ["READY=1", "STATUS=serving; no session yet"]
        assert point.is_mount()
        data = os.urandom(1 << 20)
        (point / "new\nline").write_bytes(data)
        (status,) = manager.lines()
        assert status.startswith(
            "STATUS=last session: new\\nline 1.00 MiB: received 1.00 MiB, wrote"
        )
        assert status.endswith("; 0 % not written")
        (point / "new\nline").write_bytes(data)
        assert manager.lines()[0].endswith("; 100 % not written")
        process.send_signal(signal.SIGTERM)
        assert manager.lines() == ["STOPPING=1", "STATUS=ending: finishing what is open"]
        assert process.wait(60) == 0
        manager.until("EXTEND_TIMEOUT_USEC=60000000")


def test_an_unmount_is_told_too(manager: Manager, ext4_folder: Path, tmp_path: Path) -> None:
    point = tmp_path / "mirror"
    with served(manager, ext4_folder, point) as process:
        manager.until("READY=1")
        subprocess.run(["umount", point], check=True)
        manager.until("STOPPING=1")
        assert process.wait(60) == 0


def test_a_mount_that_is_refused_is_never_ready(manager: Manager, tmp_path: Path) -> None:
    with served(manager, tmp_path / "none", tmp_path / "mirror") as process:
        assert process.wait(60) == 4
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.lines()


def test_no_child_speaks_for_the_daemon(
    manager: Manager, ext4_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notify.from_environment().tell("READY=1")
    assert manager.lines() == ["READY=1"]
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()


def test_the_watchdog_hears_of_a_mount_that_answers_alone(
    manager: Manager, ext4_folder: Path, tmp_path: Path
) -> None:
    point = tmp_path / "mirror"
    with served(manager, ext4_folder, point, WATCHDOG_USEC="600000") as process:
        manager.until("READY=1")
        for _ in range(3):
            manager.until("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        manager.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                manager.lines()
        # One that hangs says nothing; it is not that the time was too short for a message to come.
        time.sleep(1)
        with pytest.raises(BlockingIOError):
            manager.lines()
        manager.socket.settimeout(60)
        process.send_signal(signal.SIGCONT)
        manager.until("WATCHDOG=1")


def test_a_watchdog_for_another_process_is_not_ours(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")

    async def watch() -> None:
        with trio.fail_after(60):
            await notify.from_environment().watch(b"/")

    trio.run(watch)  # returns at once


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    for address in ("", str(tmp_path / "none"), "@mirrorfs-tests-none", "x" * 300):
        notifier = Notifier(address)
        with notifier:
            notifier.ready()
            notifier.stopping()


def test_more_time_is_asked_for_as_long_as_something_is_done(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(notify, "_STALLED_SECONDS", 0.5)
    notifier = Notifier(manager.address)
    with notifier:
        for _ in range(5):
            (tmp_path / "file").write_bytes(bytes(1 << 20))
            manager.until("EXTEND_TIMEOUT_USEC=")
        # Nothing is read or written from now on.
        assert notifier._beats is not None
        notifier._beats.join(60)
        assert not notifier._beats.is_alive()


def test_lines_for_the_journal_begin_with_their_priority(
    manager: Manager, ext4_folder: Path, tmp_path: Path
) -> None:
    """stderr is the journal where JOURNAL_STREAM names its device and inode."""
    for is_journal in (True, False):
        point = tmp_path / f"mirror-{is_journal}"
        point.mkdir()
        code = (
            "import os, sys; s = os.fstat(2); "
            f"os.environ['JOURNAL_STREAM'] = f'{{s.st_dev}}:{{s.st_ino + {int(not is_journal)}}}'; "
            "os.execv(sys.executable, [sys.executable, '-m', 'mirrorfs', *sys.argv[1:]])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, "mount", "-f", str(ext4_folder), str(point)],
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(point.is_mount)
        wait_for(lambda point=point: (point / ".mirrorfs").exists())  # type: ignore[misc]
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        start = "<6>" if is_journal else "mirrorfs: "
        assert all(line.startswith(f"{start}{point}: ") for line in said.splitlines())
        assert f"{start}{point}: unmounted: " in said
