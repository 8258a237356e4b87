"""The append fast path: new data at the end of a file in memory (tmpfs), taken without a thread. It
needs no comparison, and nothing there waits for a disk.

Elsewhere a write is always a thread's: even one that may not wait (RWF_NOWAIT) waits where the file
system is frozen (fsfreeze(8); file_start_write in the kernel), and that would stop every client.

Guarantees: nothing here waits for a disk or for a lock; what is not taken is left to `writer`. What
a crash leaves is what a plain pwrite interrupted at that place leaves. Called by the main loop.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrorfs.mirror.counters import Counters
from mirrorfs.mirror.plan import Data, Kind, Step, pieces, plan

if TYPE_CHECKING:
    from mirrorfs.mirror.open_file import OpenFile


def extend(file: OpenFile, offset: int, data: Data) -> int:
    """Put `data` at `offset` (bytes) if the file ends there; returns how many bytes were taken,
    and counted. Raises OSError (lseek(2)).

    0 means that nothing was done: for a file that is not in memory, has a seed, or is in a worker
    thread's hands, for a place that is not its end, and for data with a block of zeros in it, or a
    part of one.
    """
    if not file.abilities.is_memory or not data:
        return 0
    for start, piece in pieces(data, offset, file.rules.block_bytes):
        if plan(piece, None, start, file.rules) != [Step(Kind.WRITE, start, start + len(piece))]:
            return 0
    if not file.lock.acquire(blocking=False):
        return 0
    try:
        if file.stale_tail is not None or file.seed_fd >= 0:
            return 0
        if os.lseek(file.fd, 0, os.SEEK_END) != offset:
            return 0
        try:
            taken = os.pwrite(file.fd, data, offset)
        except OSError:  # the writer meets it, too
            return 0
        file.last_was_noop = False
        file.writeback.note_rewritten(offset, offset + taken)
        # Of a request that is not taken whole, the writer counts the rest, and the request.
        request = int(taken == len(data))
        file.account.add(
            file.key,
            Counters(received_bytes=taken, written_bytes=taken, write_requests=request),
        )
    finally:
        file.lock.release()
    return taken
