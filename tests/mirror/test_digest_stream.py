"""What one side sends is what the other reads, and nothing else is believed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from mirrorfs.mirror import digest_stream
from mirrorfs.mirror.digest_stream import (
    Begin,
    Digests,
    Done,
    End,
    Header,
    Listed,
    NotAStreamError,
    Refused,
    Unread,
    Zeros,
)

if TYPE_CHECKING:
    from mirrorfs.mirror.digest_stream import Record

NAME = b"odd \xff\n\"'\\ \xc3\xa4"
RECORDS: list[Record] = [
    Header(digest_stream.FOLDER, 2**64 - 1, 50_000),
    Listed(NAME, 2**62),
    Refused(b"", "Permission denied", gone=False),
    Done(),
    Begin(NAME, 10, -5),
    Zeros(2**40),
    Digests(b"\n.\nE {}\n" * 4),
    Unread(3),
    End(11, 10**18),
    Done(),
]


def read(data: bytes) -> list[Record]:
    return list(digest_stream.decode(io.BufferedReader(io.BytesIO(data))))


def test_what_is_written_is_read() -> None:
    assert read(b"".join(map(digest_stream.encode, RECORDS))) == RECORDS


@pytest.mark.parametrize(
    "data",
    [
        b"Welcome to kvm1!\n",
        b"H {}\n",
        b"H []\n",
        b"H 1\n",
        b'H {"kind": "file", "seed": 1, "sample": 1, "format": "other", "schema": 1, '
        b'"chunk_bytes": 65536}\n',
        digest_stream.encode(RECORDS[0]).replace(b'"schema": 1', b'"schema": 2'),
        digest_stream.encode(RECORDS[0]).replace(b"65536", b"4096"),
        b"Z 0\n",
        b"Z -1\n",
        b"Z x\n",
        b"Z 5",
        b"Q 5\n",
        b"D 99999999999\n",
        b"D 2\n" + bytes(31),
        b'L {"path": 1, "size": 1}\n',
        b'L {"path": "x", "size": true}\n',
        b"L " + b"[" * 60_000 + b"\n",
        b"\xff" * 100_000,
    ],
)
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    with pytest.raises(NotAStreamError):
        read(data)


def test_a_name_that_a_later_version_adds_is_no_trouble() -> None:
    data = digest_stream.encode(End(1, 2)).replace(b"{", b'{"ctime_ns": 3, ')
    assert read(data) == [End(1, 2)]
