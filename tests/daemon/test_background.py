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


def test_what_goes_wrong_in_the_background_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
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
    fs = SimpleNamespace(
        account=account,
        unlinked=SimpleNamespace(sweep=lambda: None),
        inodes=SimpleNamespace(sweep=fail),
        devices=SimpleNamespace(root=None),
        open_files=SimpleNamespace(sweep=end, note_stalls=lambda: None),
        late_recovery=SimpleNamespace(finish_all=nothing),
    )

    async def serve() -> None:
        with scope:
            await Background(fs).run()  # type: ignore[arg-type]

    scope = trio.CancelScope()
    with caplog.at_level(logging.WARNING):
        trio.run(serve)
    assert account.snapshot().errors == {"EIO": 6}
    assert [record.message for record in caplog.records] == [
        "sweep_inodes failed: [Errno 5] Input/output error",
        "end failed: a mistake of ours",
    ]
