"""The stream of digests that one machine sends another (docs/verify.md): lines of text, of which
one kind is followed by raw digests. Pure.

    H {…}         the header: format, schema, kind, chunk_bytes, seed, sample
    L {…}         a file of a folder: path, size
    .             the list of the folder is complete
    F {…}         a file begins: path, size, mtime_ns
    Z 12          so many chunks are zeros
    D 12          so many chunks: their digests follow, 16 bytes each
    S 12          so many chunks are not in the sample
    E {…}         the file has ended: size, mtime_ns, as they are now
    X {…}         a file or folder cannot be read: path, error
    .             all was sent

A name in it is relative to the folder; a byte that is not UTF-8 is a lone surrogate (U+DC80 and
the following), as JSON of Python has it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.chunk_digests import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase

FORMAT, SCHEMA = "mirrorfs-digests", 1
FILE, FOLDER = "file", "folder"
_LINE_BYTES = 1 << 16
_MAX_DIGESTS = 1 << 12  # in one record, so that a reader's memory stays flat


class NotAStreamError(ValueError):
    """What came is no such stream, or one of another version."""


@dataclass(frozen=True, slots=True)
class Header:
    """`kind` is FILE (block devices, too) or FOLDER; `sample` how many millionths were read."""

    kind: str
    seed: int
    sample: int
    format: str = FORMAT
    schema: int = SCHEMA
    chunk_bytes: int = CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a folder."""

    path: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Begin:
    """A file begins; `path` is empty if only one was asked for."""

    path: bytes
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Zeros:
    chunks: int


@dataclass(frozen=True, slots=True)
class Unread:
    chunks: int


@dataclass(frozen=True, slots=True)
class Digests:
    data: bytes

    @property
    def chunks(self) -> int:
        return len(self.data) // DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class End:
    """A file has ended; size and time as they are now."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A file or folder cannot be read; `gone` if it is not there (any more)."""

    path: bytes
    error: str
    gone: bool


@dataclass(frozen=True, slots=True)
class Done:
    """The list is complete, or all was sent."""


Runs = Zeros | Unread | Digests
Record = Header | Listed | Begin | Runs | End | Refused | Done

_OBJECTS: dict[bytes, type[Header | Listed | Begin | End | Refused]] = {
    b"H": Header,
    b"L": Listed,
    b"F": Begin,
    b"E": End,
    b"X": Refused,
}
_LETTERS = {kind: letter for letter, kind in _OBJECTS.items()}
_TYPES = {"bytes": str, "str": str, "int": int, "bool": bool}


def encode(record: Record) -> bytes:
    """The bytes of one record."""
    if isinstance(record, Done):
        return b".\n"
    if isinstance(record, Digests):
        return b"D %d\n%b" % (record.chunks, record.data)
    if isinstance(record, Zeros | Unread):
        return b"%c %d\n" % (b"Z" if isinstance(record, Zeros) else b"S", record.chunks)
    fields: dict[str, Any] = {
        name: value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        for name, value in asdict(record).items()
    }
    return _LETTERS[type(record)] + b" " + json.dumps(fields).encode() + b"\n"


def decode(source: BufferedIOBase) -> Iterator[Record]:
    """The records of a stream, until it ends. Raises NotAStreamError, also for a stream that was
    cut off inside a record.
    """
    while line := source.readline(_LINE_BYTES):
        try:
            record = _decoded(line)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise NotAStreamError(line[:80].decode("utf-8", "backslashreplace")) from None
        if isinstance(record, int):
            data = source.read(record * DIGEST_BYTES)
            if len(data) < record * DIGEST_BYTES:
                raise NotAStreamError("it was cut off")
            record = Digests(data)
        yield record


def _decoded(line: bytes) -> Record | int:
    """The record of one line; of digests their number."""
    if line == b".\n":
        return Done()
    letter, rest = line[:1], line[1:]
    if not (rest.startswith(b" ") and rest.endswith(b"\n")):
        raise ValueError
    if letter in _OBJECTS:
        return _object(_OBJECTS[letter], json.loads(rest))
    count = int(rest)
    if letter not in {b"Z", b"S", b"D"} or count < 1 or (letter == b"D" and count > _MAX_DIGESTS):
        raise ValueError
    return Zeros(count) if letter == b"Z" else Unread(count) if letter == b"S" else count


def _object(
    kind: type[Header | Listed | Begin | End | Refused], found: dict[str, Any]
) -> Header | Listed | Begin | End | Refused:
    fields: dict[str, Any] = {}
    for name, type_name in kind.__annotations__.items():
        value = found[name]  # names that a later version adds are no trouble
        if type(value) is not _TYPES[type_name]:
            raise TypeError
        is_name = type_name == "bytes"
        fields[name] = str(value).encode("utf-8", "surrogateescape") if is_name else value
    record = kind(**fields)
    if isinstance(record, Header) and (record.format, record.schema, record.chunk_bytes) != (
        FORMAT,
        SCHEMA,
        CHUNK_BYTES,
    ):
        raise ValueError
    return record
