"""Writes a damaged chunk anew, from a source that has what the digest says.

Guarantees: nothing but a content that has the remembered digest is written, and nothing while a
session is under way. A session that begins meanwhile waits for the lock of the digest file, and
after a second takes its name away and goes on; so a chunk is written only soon after the lock was
got, and if the digest file still has its name. A crash leaves the digest file open.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorfs.backing import syscalls
from mirrorfs.backing.digest_file import GROUP_CHUNKS, Chunk
from mirrorfs.backing.disk_reader import UNREADABLE, DiskReader
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from mirrorfs.daemon.scrub_digests import ScrubDigests
    from mirrorfs.daemon.scrub_place import ScrubPlace

# Of the second that a session waits.
_SOON_SECONDS = 0.4
# A session that waits for the lock gets it between two chunks.
_PAUSE_SECONDS = 0.02

REPAIRED = "repaired"
NO_MATCH = "the source has something else there"
UNREAD = "the source cannot be read there"
TOO_SLOW = "the disk is too slow now; repair it again"
STILL_BAD = "was written anew, and still reads wrong; replace the disk"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a damaged chunk. `result` is one of those above; empty if a session has begun:
    then nothing more is to be done.
    """

    chunk: int
    result: str


def repair(
    where: ScrubPlace, digests: ScrubDigests, target_fd: int, source_fd: int, chunk: int
) -> Outcome:
    """Write a damaged chunk of the file `target_fd`, open for writing, from the same place of the
    file `source_fd`. Raises OSError for the target and its digest file.
    """
    start = chunk * CHUNK_BYTES
    length = min(CHUNK_BYTES, digests.stamp.size - start)
    number, place = divmod(chunk, GROUP_CHUNKS)
    known = digests.group(number).get(place, place + 1)
    try:
        content = os.pread(source_fd, length, start)
    except OSError:
        return Outcome(chunk, UNREAD)
    if len(content) < length or chunk_digests.digests(content, digests.seed) != known[1]:
        return Outcome(chunk, NO_MATCH)
    time.sleep(_PAUSE_SECONDS)
    got = time.monotonic()
    file = digests.reopened()
    if file is None:
        return Outcome(chunk, "")
    try:
        group = file.group(number, digests.seed)
        if group.get(place, place + 1) != known or known[0] != bytes([Chunk.DAMAGED]):
            return Outcome(chunk, "")
        mtime_ns = digests.stamp.mtime_ns
        digests.set_open(file)
        # Nothing comes between these questions and the write.
        is_soon = time.monotonic() - got < _SOON_SECONDS
        if not (is_soon and where.folder.has(file, digests.identity)):
            if is_soon:
                return Outcome(chunk, "")
            digests.move_on(file)
            return Outcome(chunk, TOO_SLOW)
        try:
            os.pwrite(target_fd, content, start)
            if where.folder.has(file, digests.identity):
                syscalls.set_times(target_fd, None, mtime_ns)
            os.fsync(target_fd)
        except OSError as exc:
            digests.move_on(file)  # it stays damaged, and all else is as it was
            return Outcome(chunk, f"cannot be written: {exc.strerror}")
        if not where.folder.has(file, digests.identity):
            return Outcome(chunk, "")
        is_well = _reads(target_fd, start, length, digests.seed) == known[1]
        if is_well:
            is_zeros = known[1] == chunk_digests.of_zeros(length, digests.seed)
            group.set(place, bytes([Chunk.ZEROS if is_zeros else Chunk.KNOWN]))
            file.set_group(number, group, digests.seed)
        digests.move_on(file)
        return Outcome(chunk, REPAIRED if is_well else STILL_BAD)
    finally:
        file.close()


def _reads(fd: int, start: int, length: int, seed: int) -> bytes:
    """The digest of what the disk gives now; nothing if it cannot be read."""
    reader = DiskReader(fd)
    try:
        return chunk_digests.digests(reader.once(start, start + length), seed)
    except OSError as exc:
        if exc.errno not in UNREADABLE:
            raise
        return b""
    finally:
        reader.close()
