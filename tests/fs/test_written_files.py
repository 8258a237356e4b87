"""What stays known of written files when no client has them open any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from mirrorfs.fs import written_files
from mirrorfs.fs.written_files import WrittenFiles
from mirrorfs.mirror.counters import Account, Counters
from mirrorfs.mirror.writeback import Writeback


@dataclass
class _Inode:
    key: tuple[int, int, int]
    places: list[bytes] = field(default_factory=lambda: [b"place"])
    nameless: bool = False

    def path(self) -> bytes:
        return self.places[-1]


def inode(number: int) -> Any:
    return cast("Any", _Inode((1, number, 0)))


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def written(account: Account) -> WrittenFiles:
    return WrittenFiles(account)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_files, "MAX_FILES", 2)


def test_nothing_is_known_of_a_file_that_was_never_written(written: WrittenFiles) -> None:
    assert written.path((1, 5, 0)) is None
    assert written.writeback((1, 5, 0)) is None


def test_a_file_is_known_by_its_place_when_it_was_opened_or_forgotten(
    written: WrittenFiles,
) -> None:
    file = inode(5)
    written.note_opened(file)
    assert written.path(file.key) == b"place"
    file.places.append(b"moved")
    assert written.path(file.key) == b"place"
    written.note_forgotten(file)
    assert written.path(file.key) == b"moved"


def test_a_forgotten_file_that_was_never_written_gets_no_place(written: WrittenFiles) -> None:
    file = inode(5)
    written.note_forgotten(file)
    assert written.path(file.key) is None


@pytest.mark.usefixtures("few")
def test_the_places_of_the_files_that_were_opened_last_are_known(written: WrittenFiles) -> None:
    files = [inode(number) for number in range(3)]
    for file in (files[0], files[1], files[0], files[2]):
        written.note_opened(file)
    assert [written.path(file.key) for file in files] == [b"place", None, b"place"]


def test_a_failed_writeback_is_known_at_the_next_open(written: WrittenFiles) -> None:
    file = inode(5)
    first = written.note_opened(file)
    first.note_failure()
    first.note_rewritten(0, 100)
    written.note_closed(file.key, first)
    assert written.writeback(file.key) is first
    second = written.note_opened(file)
    assert second is first
    assert (second.failed, second.rewritten) == (True, [])


def test_a_writeback_that_was_made_good_is_not_kept(written: WrittenFiles) -> None:
    file = inode(5)
    written.note_failure(file.key)
    known = written.note_opened(file)
    assert known.failed
    known.failed = False
    written.note_closed(file.key, known)
    assert written.writeback(file.key) is None
    assert not written.note_opened(file).failed


def test_a_failed_sync_of_a_reader_is_kept_beside_reserved_space(written: WrittenFiles) -> None:
    file = inode(5)
    known = written.note_opened(file)
    known.reserved = True
    written.note_closed(file.key, known)
    written.note_failure(file.key)
    found = written.note_opened(file)
    assert (found.failed, found.reserved) == (True, True)


@pytest.mark.usefixtures("few")
def test_reserved_space_of_a_few_files_is_known_and_every_failure(written: WrittenFiles) -> None:
    for number in range(4):
        written.note_closed((1, number, 0), Writeback(reserved=True))
        written.note_closed((2, number, 0), Writeback(failed=True))
    known = [written.writeback((1, number, 0)) is not None for number in range(4)]
    assert known == [False, False, True, True]
    assert all(written.writeback((2, number, 0)) for number in range(4))


def test_all_is_forgotten_of_a_file_that_is_no_more(
    written: WrittenFiles, account: Account
) -> None:
    file = inode(5)
    written.note_opened(file)
    account.add(file.key, Counters(received_bytes=1), Counters())
    written.note_closed(file.key, Writeback(failed=True))
    file.nameless = True
    written.note_forgotten(file)
    assert written.path(file.key) is None
    assert written.writeback(file.key) is None
    assert account.file(file.key)["received_bytes"] == 0
    assert account.snapshot().since_mount["received_bytes"] == 1
