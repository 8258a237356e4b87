"""Digest files: what is damaged, of something else or open is of no use; locks; what is freed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing import digest_file
from mirrorfs.backing.digest_file import (
    GROUP_CHUNKS,
    Chunk,
    DigestFile,
    Folder,
    Group,
    Header,
    Identity,
    Mark,
    Stamp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = Identity(0, 77, 1_700_000_000_123_456_789)
OTHER = Identity(0, 78, 1_700_000_000_123_456_789)
STAMP = Stamp(5 << 20, -1, 1_700_000_001_000_000_000)
SEED = 2**64 - 3
PAGE, GROUP_BYTES = 4096, 4096 + 65536
KNOWN, ZEROS = bytes([Chunk.KNOWN]), bytes([Chunk.ZEROS])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    parent = os.open(tmp_path, os.O_RDONLY)
    made = Folder(parent)
    os.close(parent)
    yield made
    made.close()


@pytest.fixture
def file(folder: Folder) -> Iterator[DigestFile]:
    made = folder.make(FILE)
    yield made
    made.close()


def digests(first: int, count: int) -> bytes:
    return b"".join(b"%016d" % number for number in range(first, first + count))


@pytest.mark.parametrize("mark", Mark)
@pytest.mark.parametrize("stamp", [STAMP, Stamp(0, 0, 0), Stamp(2**63, -(2**62), 2**62)])
def test_a_header_is_read_as_it_was_written(file: DigestFile, mark: Mark, stamp: Stamp) -> None:
    header = Header(mark, FILE, SEED, stamp)
    file.set_header(header)
    assert file.header(FILE, SEED) == header


def test_a_header_of_another_file_or_secret_is_of_no_use(file: DigestFile) -> None:
    file.set_header(Header(Mark.CLOSED, FILE, SEED, STAMP))
    assert file.header(OTHER, SEED) is None
    assert file.header(FILE._replace(born_ns=0), SEED) is None
    assert file.header(FILE._replace(device=1), SEED) is None
    assert file.header(FILE, SEED + 1) is None


def test_a_header_with_any_byte_changed_is_of_no_use(file: DigestFile) -> None:
    file.set_header(Header(Mark.OPEN, FILE, SEED, STAMP))
    whole = os.pread(file.fd, PAGE, 0)
    assert len(whole) <= 512  # one sector: a power cut leaves all of it, or nothing
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        os.pwrite(file.fd, damaged, 0)
        assert file.header(FILE, SEED) is None, place
    os.pwrite(file.fd, whole, 0)
    assert file.header(FILE, SEED) is not None


def test_a_header_that_is_torn_or_missing_is_of_no_use(file: DigestFile) -> None:
    assert file.header(FILE, SEED) is None
    file.set_header(Header(Mark.CLOSED, FILE, SEED, STAMP))
    size = os.fstat(file.fd).st_size
    for length in (size - 1, size // 2, 1, 0):
        os.ftruncate(file.fd, length)
        assert file.header(FILE, SEED) is None
        os.ftruncate(file.fd, size)
        assert file.header(FILE, SEED) is None  # zeros, where it was


def test_what_was_never_written_is_unknown(file: DigestFile) -> None:
    for number in (0, 1, 1000):
        group = file.group(number, SEED)
        assert not any(group.states)


def test_a_group_is_read_as_it_was_written(file: DigestFile) -> None:
    group = Group()
    group.set(0, KNOWN * 3, digests(0, 3))
    group.set(GROUP_CHUNKS - 2, KNOWN + bytes([Chunk.DAMAGED]), digests(50, 2))
    group.set(500, ZEROS * 100)
    file.set_group(3, group, SEED)
    assert not group.is_changed
    found = file.group(3, SEED)
    assert found.get(0, GROUP_CHUNKS) == group.get(0, GROUP_CHUNKS)
    assert found.get(0, 3) == (KNOWN * 3, digests(0, 3))
    assert not any(file.group(2, SEED).states)
    assert os.fstat(file.fd).st_blocks * 512 < GROUP_BYTES  # only the pages with something in them


def test_only_changed_pages_of_a_group_are_written(file: DigestFile) -> None:
    group = Group()
    group.set(0, KNOWN * GROUP_CHUNKS, digests(0, GROUP_CHUNKS))
    file.set_group(0, group, SEED)
    lost = 2 * PAGE  # of the digests: chunks 512 to 767
    os.pwrite(file.fd, bytes(PAGE), PAGE + PAGE + lost)
    group.set(300, KNOWN, digests(9, 1))
    file.set_group(0, group, SEED)
    assert os.pread(file.fd, PAGE, PAGE + PAGE + lost) == bytes(PAGE)
    assert not any(file.group(0, SEED).states)  # and that is noticed


def test_digests_that_stay_are_those_from_before(file: DigestFile) -> None:
    group = Group()
    group.set(7, KNOWN, digests(7, 1))
    group.set(7, bytes([Chunk.DAMAGED]))
    file.set_group(0, group, SEED)
    assert file.group(0, SEED).get(7, 8) == (bytes([Chunk.DAMAGED]), digests(7, 1))


@pytest.mark.parametrize("place", [0, GROUP_CHUNKS - 1, GROUP_CHUNKS, PAGE - 1, PAGE, PAGE + 15])
def test_a_group_with_a_bit_changed_is_unknown(file: DigestFile, place: int) -> None:
    group = Group()
    group.set(0, KNOWN * GROUP_CHUNKS, digests(0, GROUP_CHUNKS))
    file.set_group(1, group, SEED)
    start = PAGE + GROUP_BYTES + place
    os.pwrite(file.fd, bytes([os.pread(file.fd, 1, start)[0] ^ 4]), start)
    assert not any(file.group(1, SEED).states)


def test_a_group_of_another_secret_or_place_is_unknown(file: DigestFile) -> None:
    group = Group()
    group.set(0, KNOWN, digests(0, 1))
    file.set_group(0, group, SEED)
    assert not any(file.group(0, SEED ^ 1).states)


@pytest.mark.parametrize("length", [PAGE, PAGE + GROUP_CHUNKS, PAGE + PAGE, PAGE + PAGE + 15])
def test_a_group_that_is_cut_off_is_unknown(file: DigestFile, length: int) -> None:
    group = Group()
    group.set(0, KNOWN * 2, digests(1, 2))
    file.set_group(0, group, SEED)
    os.ftruncate(file.fd, length)
    assert not any(file.group(0, SEED).states)


def test_cut_frees_whole_groups(file: DigestFile) -> None:
    for number in range(3):
        group = Group()
        group.set(GROUP_CHUNKS - 1, KNOWN, digests(number, 1))
        file.set_group(number, group, SEED)
    file.cut(2 * GROUP_CHUNKS + 1)
    assert any(file.group(2, SEED).states)
    file.cut(2 * GROUP_CHUNKS)
    assert [any(file.group(number, SEED).states) for number in range(3)] == [True, True, False]
    file.cut(1)
    assert [any(file.group(number, SEED).states) for number in range(3)] == [True, False, False]
    file.cut(0)
    assert os.fstat(file.fd).st_size == PAGE
    file.cut(5 * GROUP_CHUNKS)
    assert os.fstat(file.fd).st_size == PAGE


def test_the_secret_is_made_once(tmp_path: Path, folder: Folder) -> None:
    parent = os.open(tmp_path, os.O_RDONLY)
    other = Folder(parent)
    assert other.seed == folder.seed != 0
    other.close()
    os.truncate(tmp_path / "digests/secret", 7)  # a crash, while it was made
    third = Folder(parent)
    assert third.seed != folder.seed
    third.close()
    os.close(parent)
    assert (tmp_path / "digests").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "digests/secret").stat().st_mode & 0o777 == 0o600


def test_there_is_none_where_none_was_made(folder: Folder) -> None:
    assert folder.open(FILE) is None
    assert folder.try_open(FILE) is None
    folder.remove(FILE)
    folder.remove(FILE, is_durable=True)


def test_make_takes_the_place_of_an_old_one(folder: Folder) -> None:
    old = folder.make(FILE)
    old.set_header(Header(Mark.CLOSED, FILE, SEED, STAMP))
    new = folder.make(FILE)
    assert new.header(FILE, SEED) is None
    old.close()
    new.close()
    found = folder.open(FILE)
    assert found is not None
    assert found.header(FILE, SEED) is None
    found.close()


def test_one_that_is_open_is_opened_again_when_it_is_closed(folder: Folder) -> None:
    made = folder.make(FILE)
    with pytest.raises(BlockingIOError):
        folder.try_open(FILE)
    made.close()
    again = folder.try_open(FILE)
    assert again is not None
    again.close()


def test_a_lock_of_another_process_costs_a_second_and_the_digests(
    tmp_path: Path, folder: Folder
) -> None:
    folder.make(FILE).close()
    path = tmp_path / "digests" / FILE.name.decode()
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'rb')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError):
            folder.try_open(FILE)
        assert path.exists()
        begun = time.monotonic()
        assert folder.open(FILE) is None
        assert time.monotonic() - begun >= digest_file._LOCK_SECONDS
        assert not path.exists()
        folder.make(FILE).close()
        assert path.exists()
        process.communicate()


def test_a_lock_that_is_given_back_soon_costs_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder.make(FILE)
    made.set_header(Header(Mark.CLOSED, FILE, folder.seed, STAMP))
    steps: list[float] = []

    def sleep(seconds: float) -> None:
        steps.append(seconds)
        if len(steps) == 3:
            fcntl.flock(made.fd, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", sleep)
    found = folder.open(FILE)
    assert found is not None
    assert found.header(FILE, folder.seed) is not None
    found.close()
    made.close()


def test_one_whose_name_another_has_taken_is_not_used(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening it and getting its lock."""
    made = folder.make(FILE)

    def sleep(_seconds: float) -> None:
        nonlocal made
        newer = folder.make(FILE)
        made.close()
        made = newer

    monkeypatch.setattr(time, "sleep", sleep)
    assert folder.open(FILE) is None
    with pytest.raises(BlockingIOError):
        folder.try_open(FILE)
    made.close()


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "second name"])
def test_what_is_no_digest_file_is_refused(tmp_path: Path, folder: Folder, kind: str) -> None:
    path = tmp_path / "digests" / FILE.name.decode()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("secret")
    else:
        os.link(tmp_path / "digests/secret", path)
    with pytest.raises(OSError, match=r"directory|regular file|symbolic|another name"):
        folder.open(FILE)
    with pytest.raises(OSError, match=r"directory|regular file|symbolic|another name"):
        folder.try_open(FILE)
    if kind != "folder":
        folder.make(FILE).close()
        assert path.is_file()
