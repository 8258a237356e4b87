"""What a mount does by itself cannot end it."""

from __future__ import annotations

import errno
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from mirrorfs.backing import syscalls
from mirrorfs.daemon.background import Background
from mirrorfs.mirror.counters import Account, Counters

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = (1, 2, 3)


class Mount:
    """The file system of a mount with nothing to do; a test puts its own steps in."""

    def __init__(self) -> None:
        self.account = Account()
        self.unlinked = SimpleNamespace(sweep=lambda: None)
        self.inodes = SimpleNamespace(sweep=lambda: None)
        self.devices = SimpleNamespace(root=None)
        self.open_files = SimpleNamespace(sweep=self.nothing, note_stalls=lambda: None)
        self.sessions = SimpleNamespace(sweep=lambda: None)
        self.late_recovery = SimpleNamespace(finish_all=self.nothing)

    async def nothing(self, *_arguments: object) -> None:
        return

    def serve(self, seconds: float, *steps: Callable[[], None]) -> None:
        """Run for so long by a clock that does not wait, doing one of `steps` each second."""

        async def run() -> None:
            fs: Any = self
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(Background(fs).run)
                    await trio.sleep(0.5)
                    for step in steps:
                        step()
                        await trio.sleep(1)
                    await trio.sleep_forever()

        trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def mount() -> Mount:
    return Mount()


def test_what_goes_wrong_in_the_background_is_counted_and_logged_once(
    mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def have_a_bug() -> None:
        raise ValueError("a mistake of ours")

    mount.inodes.sweep = fail
    mount.open_files.sweep = have_a_bug
    with caplog.at_level(logging.WARNING):
        mount.serve(3.5)
    assert mount.account.snapshot().errors == {"EIO": 6}
    assert [record.message for record in caplog.records] == [
        "sweep_inodes failed: [Errno 5] Input/output error",
        "have_a_bug failed: a mistake of ours",
    ]


def test_a_file_that_cannot_be_finalised_after_a_crash_does_not_keep_others_from_being_swept(
    mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    swept = []

    async def fail(_device: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    mount.late_recovery.finish_all = fail
    mount.unlinked.sweep = lambda: swept.append(1)
    mount.serve(3.5)
    assert len(swept) == 3
    assert mount.account.snapshot().errors == {"EROFS": 1}
    assert [record.message for record in caplog.records] == [
        "finish_leftovers failed: [Errno 30] Read-only file system"
    ]


def test_stalled_disks_are_looked_for_several_times_a_second(mount: Mount) -> None:
    looks = []
    mount.open_files.note_stalls = lambda: looks.append(1)
    mount.serve(2.1)
    assert len(looks) == 10


def test_memory_is_given_back_once_when_clients_are_quiet_after_moving_data(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(
        syscalls,
        "give_back_request_buffers",
        lambda: given_back.append(mount.account.moved_bytes()),
    )

    def write() -> None:
        mount.account.add(KEY, Counters(received_bytes=10), Counters())

    def rest() -> None:
        assert given_back in ([], [20])

    mount.serve(20, write, write, rest, rest, rest, write)
    assert given_back == [20, 30]


def test_no_memory_is_given_back_where_no_data_was_moved(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "give_back_request_buffers", lambda: pytest.fail("for nothing"))
    mount.serve(10)
