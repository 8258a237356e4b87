"""What a mount does by itself cannot end it."""

from __future__ import annotations

import errno
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING

import trio

from mirrorfs.daemon.background import Background
from mirrorfs.mirror.counters import Account

if TYPE_CHECKING:
    import pytest


def test_what_goes_wrong_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sweeps = []

    def fail() -> None:
        sweeps.append(1)
        raise OSError(errno.EIO, "Input/output error")

    async def end() -> None:
        if len(sweeps) == 3:
            scope.cancel()
        raise ValueError("a mistake of ours")

    async def nothing(_device: object) -> None:
        return

    account = Account()
    state = SimpleNamespace(
        account=account,
        old_files=SimpleNamespace(sweep=lambda: None),
        inodes=SimpleNamespace(sweep=fail, devices=SimpleNamespace(root=None)),
        mirrors=SimpleNamespace(sweep=end, note_stalls=lambda: None),
        leftovers=SimpleNamespace(finish_all=nothing),
    )

    async def serve() -> None:
        with scope:
            await Background(state).run()  # type: ignore[arg-type]

    scope = trio.CancelScope()
    with caplog.at_level(logging.WARNING):
        trio.run(serve)
    assert account.snapshot().errors == {"EIO": 6}
    assert [record.message for record in caplog.records] == [
        "sweep_inodes failed: [Errno 5] Input/output error",
        "end failed: a mistake of ours",
    ]
