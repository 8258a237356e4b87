"""The end of a session: data, digests and stamp are durable before the mark is taken away."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import syscalls
from mirrorfs.backing.digest_file import Chunk, DigestFile, Header, Mark
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import sealing
from mirrorfs.mirror.known_digests import stamp_of
from tests.mirror.digest_folder import CHUNK, MIB, Written, digest_folder, failing, written

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["digest_folder", "written"]

DATA = os.urandom(MIB)


def seal(written: Written) -> bool:
    return sealing.seal(written.known, written.known.epoch, written.fd, written.changed, True)


def stored(written: Written) -> bytes:
    """What is known of each chunk by a digest file that is believed; nothing without one."""
    file = written.folder.try_open(written.identity)
    if file is None:
        return b""
    try:
        header = file.header(written.identity, written.folder.seed)
        stamp = stamp_of(statx(written.fd))
        wanted = Header(Mark.CLOSED, written.identity, written.folder.seed, stamp)
        chunks = -(-stamp.size // CHUNK)
        group = file.group(0, written.folder.seed)
        return bytes(group.states[:chunks]) if header == wanted else b""
    finally:
        file.close()


def test_the_order_of_syncs(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    written.write(0, DATA)
    written.leave()
    events: list[str] = []
    fsync, sync, set_header = os.fsync, DigestFile.sync, DigestFile.set_header

    def noted_header(self: DigestFile, header: Header) -> None:
        events.append(header.mark.name)
        set_header(self, header)

    def noted_fsync(fd: int) -> None:
        events.append("data")
        fsync(fd)

    def noted_sync(self: DigestFile) -> None:
        events.append("digests")
        sync(self)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(DigestFile, "sync", noted_sync)
    monkeypatch.setattr(DigestFile, "set_header", noted_header)
    assert seal(written)
    assert events == ["data", "OPEN", "OPEN", "digests", "CLOSED"]
    assert stored(written) == bytes([Chunk.KNOWN]) * 16


def test_what_is_a_hole_or_in_the_cache_is_learned(written: Written) -> None:
    written.write(0, DATA)
    written.known.begin(written.fd)
    written.known.changed(0, MIB)
    syscalls.punch_hole(written.fd, 4 * CHUNK, 8 * CHUNK + 4096)
    assert seal(written)
    states = stored(written)
    assert states[:4] == states[8:][:4]
    assert states[4:8] == bytes([Chunk.ZEROS]) * 4
    assert Chunk.UNKNOWN not in states


def test_where_holes_are_not_told_they_are_read(written: Written) -> None:
    written.write(0, DATA)
    written.known.begin(written.fd)
    written.known.changed(0, MIB)
    syscalls.punch_hole(written.fd, 4 * CHUNK, 8 * CHUNK)
    sealing.seal(written.known, written.known.epoch, written.fd, written.changed, False)
    assert Chunk.ZEROS not in stored(written)


def test_a_ragged_end_is_learned(written: Written) -> None:
    written.write(0, DATA + b"end")
    written.known.changed(15 * CHUNK, MIB + 3)
    assert seal(written)
    assert stored(written) == b"\1" * 17


def test_a_failed_sync_is_raised_and_nothing_is_known(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write(0, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OSError, match="error"):
            seal(written)
    assert stored(written) == b""
    assert written.states() == bytes(16)


@pytest.mark.parametrize("moment", ["data", "cached", "status"])
def test_any_other_error_leaves_no_descriptor(
    written: Written, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    written.write(0, DATA)
    seal(written)
    written.new()
    before = len(os.listdir("/proc/self/fd"))
    written.write(0, DATA)
    written.known.changed(0, 1)
    where = {"data": "holes.data_ranges", "cached": "os.fstat", "status": "stamp_of"}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(f"mirrorfs.mirror.sealing.{where}", failing(errno.EIO))
        with pytest.raises(OSError, match="error"):
            sealing.seal(written.known, written.known.epoch, written.fd, [(0, 16)], True)
    assert len(os.listdir("/proc/self/fd")) == before
    assert stored(written) == b""


def test_a_change_beside_before_the_end_is_noticed(written: Written) -> None:
    written.write(0, DATA)
    written.leave()
    os.pwrite(written.fd, b"x", 0)
    os.utime(written.fd, ns=(1, 1))
    assert seal(written)
    assert written.known.is_changed_beside
    assert stored(written) == b""


@pytest.mark.parametrize(
    ("change", "is_beside"),
    [
        (lambda fd: os.utime(fd, ns=(1, 1)), True),
        (lambda fd: os.truncate(fd, MIB + 1), True),
        (lambda fd: os.fchmod(fd, 0o640), False),
    ],
)
def test_a_change_during_the_sync_is_noticed(
    written: Written,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[int], None],
    is_beside: bool,
) -> None:
    written.write(0, DATA)
    written.leave()
    syncs: list[int] = []

    def sync(fd: int) -> None:
        if not syncs:
            change(fd)
        syncs.append(fd)

    monkeypatch.setattr(os, "fsync", sync)
    assert seal(written)
    assert written.known.is_changed_beside == is_beside
    assert (stored(written) == b"") == is_beside
    assert len(syncs) == (1 if is_beside else 2)


def test_a_file_that_never_rests_is_given_up(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write(0, DATA)
    monkeypatch.setattr(os, "fsync", lambda fd: os.fchmod(fd, os.fstat(fd).st_mode ^ 0o40))
    assert seal(written)
    assert stored(written) == b""


@pytest.mark.parametrize("moment", ["data", "digests"])
def test_a_client_that_goes_on_ends_it(
    written: Written, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    written.write(0, DATA)
    written.known.changed(0, CHUNK)

    def sync(_fd: int) -> None:
        written.write(5, b"x")

    learn = sealing._learn_cached

    def learned(*args: object) -> None:
        written.write(5, b"x")
        learn(*args)  # type: ignore[arg-type]

    if moment == "data":
        monkeypatch.setattr(os, "fsync", sync)
    else:
        monkeypatch.setattr(sealing, "_learn_cached", learned)
    assert not seal(written)
    assert stored(written) == b""
    assert written.states() == b"\0" + b"\1" * 15


def test_it_waits_for_the_next_tick_of_the_clock(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change within the tick of the last one could leave the same stamp."""
    slept: list[float] = []
    monkeypatch.setattr("mirrorfs.mirror.sealing.time.sleep", slept.append)
    written.write(0, DATA)
    now = statx(written.fd).ctime_ns
    monkeypatch.setattr("mirrorfs.mirror.sealing.time.time_ns", lambda: now + 1_000_000)
    assert seal(written)
    assert slept == [0.02]
