"""Groups of digests: what is too much for the memory goes to the digest file, and comes back."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import pytest

from mirrorfs.backing.digest_file import (
    GROUP_CHUNKS,
    Chunk,
    DigestFile,
    Folder,
    Identity,
    Mark,
    Stamp,
)
from mirrorfs.mirror import digest_groups
from mirrorfs.mirror.digest_groups import DigestGroups
from tests.mirror.digest_folder import digest_folder, failing

__all__ = ["digest_folder"]

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Identity(0, 5, 6)
K, Z = bytes([Chunk.KNOWN]), bytes([Chunk.ZEROS])
STAMP = Stamp(1 << 40, 3, 4)


@pytest.fixture
def groups(digest_folder: Folder) -> Iterator[DigestGroups]:
    made = DigestGroups(lambda: digest_folder, FILE)
    yield made
    made.close()


def digests(first: int, count: int) -> bytes:
    return b"".join(b"%016d" % number for number in range(first, first + count))


def test_what_is_set_across_groups_is_there(groups: DigestGroups) -> None:
    first, count = GROUP_CHUNKS - 3, GROUP_CHUNKS + 7
    groups.set(first, K * count, digests(first, count))
    assert groups.get(first, first + count) == (K * count, digests(first, count))
    assert groups.get(first - 1, first + 1)[0] == b"\0" + K
    assert groups.are_sure(first, first + count)
    assert not groups.are_sure(first - 1, first + count)
    assert groups.count(0, 3 * GROUP_CHUNKS, Chunk.KNOWN) == count


def test_unsure_gives_the_runs_of_what_is_unknown(groups: DigestGroups) -> None:
    groups.set_all(2, 5, Chunk.ZEROS)
    groups.set_all(GROUP_CHUNKS - 1, GROUP_CHUNKS + 1, Chunk.ZEROS)
    end = GROUP_CHUNKS + 4
    runs = [(0, 2), (5, GROUP_CHUNKS - 1), (GROUP_CHUNKS + 1, end)]
    assert list(groups.unsure(0, end)) == runs
    assert list(groups.unsure(3, 6)) == [(5, 6)]
    assert list(groups.unsure(2, 5)) == []


def test_memory_does_not_grow_and_nothing_is_lost(
    groups: DigestGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_groups, "_MAX_GROUPS", 3)
    chance, model = random.Random(4), dict[int, tuple[bytes, bytes]]()
    for _ in range(300):
        first, count = chance.randrange(20 * GROUP_CHUNKS), chance.choice([1, 5, 300])
        if chance.random() < 0.5:
            some = chance.randbytes(16 * count)
            groups.set(first, K * count, some)
            for n in range(count):
                model[first + n] = K, some[16 * n : 16 * n + 16]
        elif chance.random() < 0.5:
            groups.set_all(first, first + count, Chunk.UNKNOWN)
            for n in range(count):
                model.pop(first + n, None)
        else:
            cut = 20 * GROUP_CHUNKS - chance.randrange(2000)
            groups.cut(cut)
            model = {number: known for number, known in model.items() if number < cut}
        assert len(groups._groups) <= 3
    assert not groups.is_lost
    for number in range(20 * GROUP_CHUNKS):
        state, digest = groups.get(number, number + 1)
        assert state == model.get(number, (b"\0", b""))[0]
        assert state == b"\0" or digest == model[number][1]


@pytest.mark.parametrize("chunks", [0, 1, GROUP_CHUNKS, GROUP_CHUNKS + 1, 2 * GROUP_CHUNKS])
def test_cut_forgets_what_is_beyond(
    groups: DigestGroups, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr(digest_groups, "_MAX_GROUPS", 1)
    groups.set_all(0, 3 * GROUP_CHUNKS, Chunk.ZEROS)
    groups.cut(chunks)
    assert groups.get(0, 3 * GROUP_CHUNKS)[0] == (Z * chunks).ljust(3 * GROUP_CHUNKS, b"\0")


def test_store_is_read_again(groups: DigestGroups, digest_folder: Folder) -> None:
    groups.set(0, K * 5000, digests(0, 5000))
    groups.store(STAMP)
    groups.close()
    file = digest_folder.open(FILE)
    assert file is not None
    header = file.header(FILE, digest_folder.seed)
    assert header is not None
    assert (header.mark, header.stamp) == (Mark.CLOSED, STAMP)
    again = DigestGroups(lambda: digest_folder, FILE)
    again.adopt(file)
    assert again.get(0, 5001) == (K * 5000 + b"\0", digests(0, 5000) + bytes(16))
    again.close()


def test_the_digest_file_is_open_until_all_is_durable(
    groups: DigestGroups, digest_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    for name in ("set_header", "set_group", "sync"):
        real = getattr(DigestFile, name)

        def noted(self: DigestFile, *args: object, name: str = name, real: object = real) -> None:
            mark = getattr(args[0], "mark", None) if args else None
            events.append(f"{name} {mark.name}" if mark else name)
            real(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(DigestFile, name, noted)
    groups.set(0, K, digests(0, 1))
    groups.store(STAMP)
    assert events == [
        "set_header OPEN",
        "set_group",
        "set_header OPEN",
        "sync",
        "set_header CLOSED",
    ]


@pytest.mark.parametrize("name", ["set_group", "group", "cut", "set_header"])
def test_an_error_means_that_nothing_is_known(
    groups: DigestGroups, digest_folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(digest_groups, "_MAX_GROUPS", 1)
    groups.set_all(0, 3 * GROUP_CHUNKS, Chunk.ZEROS)
    groups.close()
    file = digest_folder.make(FILE)
    groups.adopt(file)
    monkeypatch.setattr(DigestFile, name, failing(errno.EIO))
    groups.set_all(0, 3 * GROUP_CHUNKS, Chunk.KNOWN)
    groups.cut(1)
    if name == "set_header":
        with pytest.raises(OSError, match="error"):
            groups.store(STAMP)
        groups.lose()
    assert groups.is_lost
    assert groups.get(0, 10) == (b"", b"")
    assert not groups.are_sure(0, 1)
    assert list(groups.unsure(0, 9)) == []
    groups.set(0, K, digests(0, 1))
    assert groups.is_empty
    assert digest_folder.open(FILE) is None


def test_without_a_folder_it_is_lost_when_there_is_need_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(digest_groups, "_MAX_GROUPS", 1)
    groups = DigestGroups(lambda: None, FILE)
    with pytest.raises(FileNotFoundError):
        groups.seed()
    groups.set_all(0, 2 * GROUP_CHUNKS, Chunk.ZEROS)
    assert groups.is_lost
