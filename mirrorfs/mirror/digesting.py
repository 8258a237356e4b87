"""Makes the stream of digests of a file, a block device or the regular files below a folder.

Symbolic links inside a folder are not followed. Of what a mount keeps in a backing folder
(`.mirrorfs` at its top) nothing is listed. Memory does not depend on the size of a file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from mirrorfs.backing import scan
from mirrorfs.mirror import chunk_digests, digest_stream
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.digest_stream import (
    Begin,
    Digests,
    Done,
    End,
    Header,
    Listed,
    Refused,
    Unread,
    Zeros,
)
from mirrorfs.mirror.sample import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.mirror.digest_stream import Record
    from mirrorfs.mirror.sample import Sample

_STATE_FOLDER = b".mirrorfs"
_HOLE, _UNREAD = "hole", "unread"
_GONE = frozenset({errno.ENOENT, errno.ESTALE})


def records(
    path: bytes, seed: int, sample: Sample | None, chosen: Callable[[], list[bytes]] | None
) -> Iterator[Record]:
    """The stream for `path`, absolute. Of a folder, `chosen` is called after the list was sent, and
    gives those of its files that are wanted; None for all. Raises OSError for the path itself.
    """
    fd = _open(path, 0)
    try:
        mode = os.fstat(fd).st_mode
        sampled = WHOLE if sample is None else sample.millionths
        trust = scan.HoleTrust()
        if stat.S_ISDIR(mode):
            yield Header(digest_stream.FOLDER, seed, sampled)
            listed: list[bytes] = []
            for record in _listed(path):
                yield record
                if chosen is None and isinstance(record, Listed):
                    listed.append(record.path)
            yield Done()
            for name in listed if chosen is None else chosen():
                yield from _file_of_a_folder(path, name, seed, sample, trust)
        else:
            yield Header(digest_stream.FILE, seed, sampled)
            try:
                yield from _content(fd, b"", os.path.dirname(path), seed, sample, trust)
            except OSError as exc:
                yield _refused(b"", exc)
        yield Done()
    finally:
        os.close(fd)


def _open(path: bytes, flags: int) -> int:
    """A descriptor for reading, by which no time of access moves where that is permitted; OSError
    also for what has no content.
    """
    # Not to be stopped by a FIFO that nobody writes.
    flags |= os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        fd = os.open(path, flags)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)):
        os.close(fd)
        raise OSError(errno.EINVAL, "neither a file, a folder nor a block device", path)
    return fd


def _listed(top: bytes) -> Iterator[Listed | Refused]:
    """The regular files below a folder, and the folders that cannot be read."""
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(top, folder)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as exc:
            yield _refused(folder, exc)
            continue
        below: list[bytes] = []
        for entry in entries:
            path = os.path.join(folder, entry.name)
            try:
                if entry.is_dir(follow_symlinks=False):
                    if path != _STATE_FOLDER:
                        below.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield Listed(path, entry.stat(follow_symlinks=False).st_size)
            except OSError as exc:
                yield _refused(path, exc)
        waiting += reversed(below)


def _refused(path: bytes, exc: OSError) -> Refused:
    return Refused(path, exc.strerror or str(exc), exc.errno in _GONE)


def _file_of_a_folder(
    top: bytes, name: bytes, seed: int, sample: Sample | None, trust: scan.HoleTrust
) -> Iterator[Record]:
    path = os.path.join(top, name)
    try:
        fd = _open(path, os.O_NOFOLLOW)
    except OSError as exc:
        yield _refused(name, exc)
        return
    try:
        yield from _content(fd, name, os.path.dirname(path), seed, sample, trust)
    except OSError as exc:
        yield _refused(name, exc)
    finally:
        os.close(fd)


def _content(
    fd: int, name: bytes, folder: bytes, seed: int, sample: Sample | None, trust: scan.HoleTrust
) -> Iterator[Record]:
    before = scan.stamp(fd)
    yield Begin(name, *before)
    parts = _parts(fd, before.size, trust.has(fd, folder), sample)
    for part, content in scan.Reader(fd).read(parts):
        chunks = chunk_digests.count(part.end - part.start)
        if part.kind == _HOLE:
            yield Zeros(chunks)
        elif part.kind == _UNREAD:
            yield Unread(chunks)
        else:
            found = chunk_digests.digests(content, seed)
            yield Zeros(chunks) if found == _of_zeros(len(content), seed) else Digests(found)
    yield End(*scan.stamp(fd))


def _of_zeros(length: int, seed: int) -> bytes:
    whole, rest = divmod(length, CHUNK_BYTES)
    tail = chunk_digests.of_zeros(rest, seed) if rest else b""
    return chunk_digests.of_zeros(CHUNK_BYTES, seed) * whole + tail


def _parts(fd: int, size: int, trusted: bool, sample: Sample | None) -> Iterator[scan.Part]:
    """All of the file, part by part."""
    chunks = chunk_digests.count(size)

    def part(first: int, stop: int, kind: str) -> scan.Part:
        return scan.Part(first * CHUNK_BYTES, min(stop * CHUNK_BYTES, size), kind)

    place = 0
    window = scan.WINDOW_BYTES // CHUNK_BYTES
    for start, end in scan.data_units(fd, size, CHUNK_BYTES, trusted):
        if place < start:
            yield part(place, start, _HOLE)
        place = start
        if sample is None:
            for first in range(start, end, window):
                yield part(first, min(first + window, end), scan.READ)
        else:
            for chunk in sample.chosen(start, end):
                if place < chunk:
                    yield part(place, chunk, _UNREAD)
                yield part(chunk, chunk + 1, scan.READ)
                place = chunk + 1
            if place < end:
                yield part(place, end, _UNREAD)
        place = end
    if place < chunks:
        yield part(place, chunks, _HOLE)
