"""What a scrub notes in a digest file: all of it or nothing, and never over a session."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.digest_file import Chunk, DigestFile, Group, Mark
from mirrorfs.daemon import scrub_place, scrub_repair
from mirrorfs.daemon.remembered import Place
from mirrorfs.daemon.scrub_digests import Known, ScrubDigests
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirrorfs.daemon.scrub_place import ScrubPlace
    from mirrorfs.daemon.scrub_repair import Outcome

CONTENT = os.urandom(20 * CHUNK_BYTES)
STATES = bytes([Chunk.KNOWN]) * 20


@pytest.fixture
def where(ext4_folder: Path) -> Iterator[ScrubPlace]:
    backing = os.fsencode(ext4_folder)
    place = Place(backing, backing + b"/.mirrorfs", root=backing)
    with scrub_place.opened(place) as where:
        yield where


@pytest.fixture
def image(ext4_folder: Path) -> Iterator[int]:
    (ext4_folder / "vm.img").write_bytes(CONTENT)
    fd = os.open(ext4_folder / "vm.img", os.O_RDWR)
    yield fd
    os.close(fd)


def looked(where: ScrubPlace, image: int) -> ScrubDigests:
    return ScrubDigests(where, image, lambda _: True)


def groups(where: ScrubPlace, states: bytes = STATES) -> dict[int, Group]:
    group = Group()
    group.set(0, states, chunk_digests.digests(CONTENT, where.folder.seed))
    return {0: group}


def mark(where: ScrubPlace, digests: ScrubDigests) -> Mark | None:
    file = where.folder.look(digests.identity)
    if file is None:
        return None
    try:
        header = file.header(digests.identity, digests.seed)
        return None if header is None else header.mark
    finally:
        file.close()


def test_what_was_noted_is_known_the_next_time(where: ScrubPlace, image: int) -> None:
    first = looked(where, image)
    assert first.known is Known.NOTHING
    assert first.note(groups(where))
    again = looked(where, image)
    assert again.known is Known.WELL
    assert bytes(again.group(0).states[:20]) == STATES
    os.utime(image)
    assert looked(where, image).known is Known.CHANGED


def test_a_file_that_changes_meanwhile_gets_no_digests(where: ScrubPlace, image: int) -> None:
    digests = looked(where, image)
    os.pwrite(image, b"changed", 0)
    assert not digests.note(groups(where))
    assert mark(where, digests) is None or mark(where, digests) is Mark.OPEN
    assert looked(where, image).known is Known.NOTHING


def test_a_session_that_has_the_digest_file_is_left_alone(where: ScrubPlace, image: int) -> None:
    digests = looked(where, image)
    assert digests.note(groups(where))
    file = where.folder.open(digests.identity)
    assert file is not None
    digests.set_open(file)
    assert looked(where, image).known is Known.BUSY
    assert not digests.is_undisturbed()
    assert not digests.note(groups(where))
    file.close()  # a crash
    assert looked(where, image).known is Known.NOTHING


def test_a_session_that_did_not_wait_wins(
    where: ScrubPlace, image: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken the name away while a slow disk made the scrub hold the lock."""
    digests = looked(where, image)
    assert digests.note(groups(where))
    set_group = DigestFile.set_group

    def slow(file: DigestFile, number: int, group: Group, seed: int) -> None:
        where.folder.remove(digests.identity)
        set_group(file, number, group, seed)

    monkeypatch.setattr(DigestFile, "set_group", slow)
    assert not digests.note(groups(where))
    assert looked(where, image).known is Known.NOTHING


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("method", ["set_header", "set_group", "sync"])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_an_error_leaves_it_as_it_was_or_open(
    where: ScrubPlace,
    image: int,
    monkeypatch: pytest.MonkeyPatch,
    is_new: bool,
    method: str,
    nth: int,
) -> None:
    damaged = bytes([Chunk.DAMAGED]) + STATES[1:]
    digests = looked(where, image)
    if not is_new:
        assert digests.note(groups(where, damaged))
    real: Callable[..., None] = getattr(DigestFile, method)
    calls = iter(range(100))

    def failing(*arguments: object) -> None:
        if next(calls) == nth:
            raise OSError(errno.ENOSPC, "full")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DigestFile, method, failing)
        try:
            digests.note(groups(where))
        except OSError:
            is_failed = True
        else:
            is_failed = False
    assert is_failed == (nth < {"set_header": 2, "set_group": 1, "sync": 3}[method])
    after = looked(where, image)
    if after.known is Known.WELL:
        assert bytes(after.group(0).states[:20]) in {damaged, STATES}
    else:
        assert after.known is Known.NOTHING
    if method == "set_group" and not is_new:
        assert after.known is Known.WELL  # what is said of damage stays


class Repairable:
    """A file with one chunk that is known to be damaged, and is."""

    def __init__(self, where: ScrubPlace, image: int, source: int) -> None:
        os.pwrite(image, bytes(100), 3 * CHUNK_BYTES)
        self.where, self.image, self.source = where, image, source
        self.digests = looked(where, image)
        states = STATES[:3] + bytes([Chunk.DAMAGED]) + STATES[4:]
        assert self.digests.note(groups(where, states))

    def repair(self) -> Outcome:
        return scrub_repair.repair(self.where, self.digests, self.image, self.source, 3)

    @property
    def is_whole(self) -> bool:
        return os.pread(self.image, len(CONTENT), 0) == CONTENT


@pytest.fixture
def repairable(where: ScrubPlace, image: int, tmp_path: Path) -> Iterator[Repairable]:
    (tmp_path / "source").write_bytes(CONTENT)
    source = os.open(tmp_path / "source", os.O_RDWR)
    yield Repairable(where, image, source)
    os.close(source)


def test_a_repair_leaves_the_time_and_the_digests(repairable: Repairable) -> None:
    before = os.fstat(repairable.image)
    assert repairable.repair().result == scrub_repair.REPAIRED
    assert repairable.is_whole
    assert os.fstat(repairable.image).st_mtime_ns == before.st_mtime_ns
    after = looked(repairable.where, repairable.image)
    assert after.known is Known.WELL
    assert bytes(after.group(0).states[:20]) == STATES


def test_no_repair_from_what_is_not_the_same(repairable: Repairable) -> None:
    os.pwrite(repairable.source, b"x", 3 * CHUNK_BYTES + 1000)
    assert repairable.repair().result == scrub_repair.NO_MATCH
    os.ftruncate(repairable.source, CHUNK_BYTES)
    assert repairable.repair().result == scrub_repair.NO_MATCH
    assert not repairable.is_whole


def test_no_repair_where_a_session_did_not_wait(
    repairable: Repairable, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_open = ScrubDigests.set_open

    def slow(digests: ScrubDigests, file: DigestFile) -> None:
        set_open(digests, file)
        repairable.where.folder.remove(digests.identity)

    monkeypatch.setattr(ScrubDigests, "set_open", slow)
    assert repairable.repair().result == ""
    assert not repairable.is_whole


def test_no_repair_once_a_session_may_have_lost_its_patience(
    repairable: Repairable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_repair, "_SOON_SECONDS", 0)
    assert repairable.repair().result == scrub_repair.TOO_SLOW
    assert not repairable.is_whole
    # It can be tried again.
    monkeypatch.undo()
    assert repairable.repair().result == scrub_repair.REPAIRED


def test_no_repair_of_a_file_that_has_changed(repairable: Repairable) -> None:
    os.pwrite(repairable.image, b"by a client", 3 * CHUNK_BYTES)
    assert repairable.repair().result == ""
    assert os.pread(repairable.image, 11, 3 * CHUNK_BYTES) == b"by a client"


def test_a_disk_that_refuses_the_repair_loses_no_digests(
    repairable: Repairable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    assert repairable.repair().result == "cannot be written: Input/output error"
    after = looked(repairable.where, repairable.image)
    assert after.known is Known.WELL
    assert after.group(0).states[3] == Chunk.DAMAGED
