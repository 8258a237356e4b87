"""What is known of a file's chunks while a session changes it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.digest_file import Chunk, DigestFile, Folder, Header, Mark, Stamp
from mirrorfs.backing.statx import statx
from mirrorfs.mirror import chunk_digests, sealing
from mirrorfs.mirror.known_digests import KnownDigests, stamp_of
from tests.mirror.digest_folder import CHUNK, MIB, Written, digest_folder, failing, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["digest_folder", "written"]

U, K, Z = (bytes([state]) for state in (Chunk.UNKNOWN, Chunk.KNOWN, Chunk.ZEROS))
DATA = os.urandom(MIB)


def sealed(written: Written) -> None:
    written.write(0, DATA)
    written.leave()
    assert sealing.seal(written.known, written.known.epoch, written.fd, [], True)
    written.new()


def header(written: Written) -> Header | None:
    file = written.folder.try_open(written.identity)
    if file is None:
        return None
    try:
        return file.header(written.identity, written.folder.seed)
    finally:
        file.close()


def test_whole_chunks_are_known_and_parts_are_not(written: Written) -> None:
    written.write(0, DATA)
    assert written.states() == K * 16
    written.write(3 * CHUNK + 5, b"x" * CHUNK)
    assert written.states() == K * 3 + U * 2 + K * 11
    written.write(3 * CHUNK, DATA[: 2 * CHUNK])
    assert written.states() == K * 16
    written.write(CHUNK, bytes(CHUNK), is_zero=True)
    assert written.states() == K + Z + K * 14
    assert written.known._groups.get(3, 5)[1] == chunk_digests.digests(
        DATA[: 2 * CHUNK], written.folder.seed
    )


def test_the_last_chunk_is_known_until_the_file_grows(written: Written) -> None:
    written.write(0, DATA + b"tail")
    assert written.states() == K * 16 + U  # it may go on
    written.write(0, DATA + b"tail")
    assert written.states() == K * 17
    written.write(20 * CHUNK, b"more")
    assert written.states() == K * 16 + U + Z * 3 + U
    os.ftruncate(written.fd, 22 * CHUNK)
    written.known.resized(22 * CHUNK)
    assert written.states() == K * 16 + U + Z * 3 + U + Z


def test_pieces_that_make_a_chunk_are_known(written: Written) -> None:
    written.write(0, DATA)
    for place in range(0, CHUNK, 8192):
        written.write(2 * CHUNK + place, DATA[place : place + 8192])
        is_whole = place + 8192 == CHUNK
        assert written.states() == K * 2 + (K if is_whole else U) + K * 13


def test_what_is_cut_off_is_forgotten_for_good(written: Written) -> None:
    written.write(0, DATA)
    for size in (5 * CHUNK + 1, 16 * CHUNK):
        os.ftruncate(written.fd, size)
        written.known.resized(size)
    assert written.states() == K * 5 + U + Z * 10


def test_what_is_made_zero_is_known(written: Written) -> None:
    written.write(0, DATA)
    written.known.zeroed(CHUNK + 1, 4 * CHUNK)
    assert written.states() == K + U + Z * 2 + K * 12
    written.known.zeroed(15 * CHUNK, 99 * CHUNK)
    assert written.states() == K + U + Z * 2 + K * 11 + Z
    written.known.changed(0, 1)
    assert written.states() == U * 2 + Z * 2 + K * 11 + Z


def test_nothing_is_known_of_other_content(written: Written, tmp_path: Path) -> None:
    written.write(0, DATA)
    with (tmp_path / "source").open("w+b") as source:
        source.truncate(MIB)
        written.known.cloned(source.fileno())
    assert written.states() == U * 16


def test_unchanged_data_is_learned_and_leaves_what_is_known(written: Written) -> None:
    written.write(0, DATA)
    written.known.changed(0, CHUNK)
    written.known.took(0, DATA, False, False)
    assert written.states() == K * 16
    written.known.took(100, DATA[100:5000], False, False)
    assert written.states() == K * 16


def test_matching_tells_equal_chunks(written: Written) -> None:
    written.write(0, DATA)
    data = bytearray(DATA[CHUNK : 4 * CHUNK])
    assert written.known.matching(CHUNK, bytes(data)) == b"\1\1\1"
    data[CHUNK] ^= 1
    other = bytes(data)
    written.known.changed(3 * CHUNK, 4 * CHUNK)
    assert written.known.matching(CHUNK, other) == b"\1\0\0"
    assert written.known.matching(CHUNK + 1, other) == b""
    assert written.known.matching(CHUNK, other[:-1]) == b""
    assert written.known.matching(50 * CHUNK, other) == b""


def test_the_mark_is_durable_before_the_first_change(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(written)
    assert header(written) == Header(
        Mark.CLOSED, written.identity, written.folder.seed, stamp_of(statx(written.fd))
    )
    synced: list[Mark] = []

    def sync(self: DigestFile) -> None:
        found = self.header(written.identity, written.folder.seed)
        assert found is not None
        synced.append(found.mark)

    monkeypatch.setattr(DigestFile, "sync", sync)
    written.known.begin(written.fd)
    assert synced == [Mark.OPEN]
    written.known.begin(written.fd)
    assert synced == [Mark.OPEN]
    assert written.states() == K * 16


def test_a_session_that_was_cut_off_leaves_nothing_known(written: Written) -> None:
    sealed(written)
    written.known.begin(written.fd)
    written.known._groups.close()  # as the end of the process does
    written.new().begin(written.fd)
    assert written.states() == U * 16
    assert header(written) is None


def test_another_stamp_means_changed_beside(written: Written) -> None:
    sealed(written)
    os.pwrite(written.fd, b"x", 0)
    os.utime(written.fd, ns=(1, 1))
    written.known.begin(written.fd)
    assert written.known.is_changed_beside
    assert written.states() == U * 16


def test_a_stamp_that_clients_have_moved_is_believed(written: Written) -> None:
    sealed(written)
    before = stamp_of(statx(written.fd))
    os.utime(written.fd, ns=(1, 1))
    written.moved[before] = stamp_of(statx(written.fd))
    written.known.begin(written.fd)
    assert not written.known.is_changed_beside
    assert written.states() == K * 16


def test_a_change_beside_is_noticed_when_the_file_is_opened_again(written: Written) -> None:
    written.write(0, DATA)
    written.leave()
    os.pwrite(written.fd, b"x", 5)
    os.utime(written.fd, ns=(1, 1))
    written.write(CHUNK, DATA[:CHUNK])
    assert written.known.is_changed_beside
    assert written.states() == U + K + U * 14


def test_times_that_a_client_has_set_are_no_change_beside(written: Written) -> None:
    written.write(0, DATA)
    written.leave()
    os.utime(written.fd, ns=(7, 9))
    written.known.note_stamped(9)
    written.known.begin(written.fd)
    assert not written.known.is_changed_beside
    assert written.states() == K * 16


def test_a_new_file_takes_nothing_from_before(written: Written) -> None:
    sealed(written)
    written.new(is_new=True).begin(written.fd)
    assert written.states() == U * 16


def test_small_files_need_no_seal(written: Written) -> None:
    written.write(0, DATA[:-1])
    assert not written.known.is_to_be_kept
    written.write(MIB - 1, b"x")
    assert written.known.is_to_be_kept


def test_a_file_that_becomes_small_loses_its_digests(written: Written) -> None:
    sealed(written)
    written.known.begin(written.fd)
    os.ftruncate(written.fd, 1000)
    written.known.resized(1000)
    assert written.known.is_to_be_kept
    assert sealing.seal(written.known, written.known.epoch, written.fd, [], True)
    assert header(written) is None


@pytest.mark.parametrize(
    ("owner", "name"), [(DigestFile, "set_header"), (DigestFile, "sync"), (Folder, "open")]
)
@pytest.mark.parametrize("is_removable", [True, False])
def test_digests_that_cannot_be_marked_are_not_believed_any_more(
    written: Written,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    is_removable: bool,
) -> None:
    sealed(written)
    before = len(os.listdir("/proc/self/fd"))
    synced: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(errno.EROFS))
        if not is_removable:
            patch.setattr(Folder, "remove", failing(errno.EROFS))
            patch.setattr(os, "fsync", synced.append)
        written.known.begin(written.fd)
    assert len(os.listdir("/proc/self/fd")) == before
    found = header(written)
    if is_removable:
        assert found is None
    else:
        assert found is None or found.stamp != stamp_of(statx(written.fd))
        assert synced == [written.fd]
    os.pwrite(written.fd, b"x", 0)
    written.known.took(0, b"x", True, False)
    assert written.states() == U * 16


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("name", ["group", "set_group", "set_header", "sync"])
def test_an_error_of_the_disk_costs_the_digests_alone(
    written: Written, monkeypatch: pytest.MonkeyPatch, name: str, error: int
) -> None:
    sealed(written)
    written.known.begin(written.fd)
    with monkeypatch.context() as patch:
        patch.setattr(DigestFile, name, failing(error))
        written.write(0, DATA)
        written.leave()
        assert written.known.close(written.known.epoch, stamp_of(statx(written.fd)))
    assert header(written) is None
    sealed(written)
    assert header(written) is not None


def test_without_a_folder_nothing_is_known(written: Written) -> None:
    nowhere: Callable[[], None] = lambda: None  # noqa: E731
    written.known = KnownDigests(nowhere, written.identity, lambda stamp: stamp, False)
    written.write(0, DATA)
    assert written.states() == b""
    assert not written.known.is_to_be_kept
    assert written.known.matching(0, DATA) == b""


def test_close_is_of_no_effect_when_a_client_goes_on(written: Written) -> None:
    written.write(0, DATA)
    epoch = written.known.epoch
    written.known.begin(written.fd)
    assert not written.known.close(epoch, stamp_of(statx(written.fd)))
    assert written.states() == K * 16
    assert not written.known.unknown(epoch, 0, 16)
    written.known.changed(0, CHUNK)
    written.known.learn(epoch, 0, DATA[:CHUNK])
    written.known.learn_zeros(epoch, 0, 1)
    assert written.states() == U + K * 15


def test_close_does_not_believe_another_size(written: Written) -> None:
    written.write(0, DATA)
    assert written.known.close(written.known.epoch, Stamp(MIB + 1, 5, 5))
    assert header(written) is None


def test_damaged_chunks_that_come_anew_are_counted(written: Written) -> None:
    written.write(0, DATA)
    written.known._groups.set(3, bytes([Chunk.DAMAGED]) * 2)
    assert written.known.matching(3 * CHUNK, DATA[3 * CHUNK : 5 * CHUNK]) in {b"", b"\0\0"}
    written.known.took(2 * CHUNK, DATA[2 * CHUNK : 4 * CHUNK], False, False)
    assert written.known.repaired_chunks == 1
    assert written.states() == K * 4 + bytes([Chunk.DAMAGED]) + K * 11
