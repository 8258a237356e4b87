"""Reads a file or a block device from its start to its end, without the holes, and without pushing
what others use out of the page cache.

What was not in the page cache before is dropped from it again, window by window. The kernel is told
that reads are random, so that it reads nothing ahead that would then look as if it had been there;
threads of our own read ahead instead.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing import holes, mounts, probe, seek_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed import WriteableBuffer

WINDOW_BYTES = 2 << 20
_THREADS = 2
_AHEAD = 4


class Stamp(NamedTuple):
    """What tells that a file has changed. A block device has a size alone."""

    size: int
    mtime_ns: int


def stamp(fd: int) -> Stamp:
    """The stamp of an open file or block device; raises OSError."""
    found = os.fstat(fd)
    if stat.S_ISBLK(found.st_mode):
        return Stamp(os.lseek(fd, 0, os.SEEK_END), 0)
    return Stamp(found.st_size, found.st_mtime_ns)


class HoleTrust:
    """Whether holes are believed, tried once for each device (`seek_answers`)."""

    def __init__(self) -> None:
        self._known: dict[int, probe.Abilities | None] = {}

    def has(self, fd: int, folder: bytes) -> bool:
        """Whether those that SEEK_DATA reports in the open file `fd`, which lies in `folder`, may
        be taken for holes. A mirrorfs answers for itself.
        """
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return False
        if found.st_dev not in self._known:
            kind = mounts.mount_of(fd).fs_type
            if kind == mounts.MIRRORFS_TYPE:
                self._known[found.st_dev] = None
            elif kind in seek_answers.TRIED:
                self._known[found.st_dev] = _probed(folder)
            else:
                self._known[found.st_dev] = probe.Abilities(kind, 4096, False, False)
        abilities = self._known[found.st_dev]
        return abilities is None or abilities.tells_holes(fd)


def _probed(folder: bytes) -> probe.Abilities:
    path_fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        return probe.probe_at(path_fd, writable=True)
    finally:
        os.close(path_fd)


def data_units(
    fd: int, size: int, unit_bytes: int, trusted: bool, begin: int = 0
) -> Iterator[tuple[int, int]]:
    """The parts of the first `size` bytes, from `begin` on, a multiple of `unit_bytes`, that hold
    data, widened to whole units (half open ranges of numbers of units), ascending, none next to
    another.
    """
    units, least = -(-size // unit_bytes), begin // unit_bytes
    if not trusted:
        if least < units:
            yield least, units
        return
    start = end = least
    for first, stop in holes.data_ranges(fd, begin, size):
        low, high = first // unit_bytes, -(-stop // unit_bytes)
        if low <= end:
            end = max(end, high)
            continue
        if start < end:
            yield start, end
        start, end = low, high
    if start < end:
        yield start, end


class Part(NamedTuple):
    """`[start, end)` in bytes; what is read is no more than `WINDOW_BYTES`."""

    start: int
    end: int
    kind: str  # READ, or whatever the caller takes it for


READ = "read"


def ahead(
    parts: Iterable[Part],
    fill: Callable[[memoryview, int], None],
    make: Callable[[int], WriteableBuffer],
) -> Iterator[tuple[Part, memoryview, OSError | None]]:
    """Each part in order, its content if it is to be read, and the error that `fill` had. Some are
    read ahead, in threads: `fill` is called with a buffer of `make` and where its content begins.
    The content is good until the next part is asked for.
    """
    todo = iter(parts)
    # New buffers would cost as much as what is read into them: each page of them is a fault.
    free = [memoryview(make(WINDOW_BYTES)).cast("B") for _ in range(_AHEAD)]
    with ThreadPoolExecutor(_THREADS) as threads:

        def begin(part: Part) -> tuple[Part, memoryview, Future[None] | None]:
            if part.kind != READ:
                return part, memoryview(b""), None
            buffer = free.pop()
            window = buffer[: part.end - part.start]
            return part, buffer, threads.submit(fill, window, part.start)

        begun = collections.deque(map(begin, itertools.islice(todo, _AHEAD)))
        while begun:
            part, buffer, future = begun.popleft()
            if future is None:
                yield part, buffer, None
            else:
                error = future.exception()
                if error is not None and not isinstance(error, OSError):
                    raise error
                yield part, buffer[: part.end - part.start], error
                free.append(buffer)
            begun.extend(map(begin, itertools.islice(todo, 1)))


class Reader:
    """Reads parts of the open file `fd` in their order, some ahead, in threads of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, parts: Iterable[Part]) -> Iterator[tuple[Part, memoryview]]:
        """Each part, and its content if it is to be read, which is good until the next one is asked
        for. What is beyond the end, since another process has truncated the file, reads as zeros.
        Raises OSError.
        """
        for part, content, error in ahead(parts, self._fill, bytearray):
            if error is not None:
                raise error
            yield part, content

    def _fill(self, window: memoryview, start: int) -> None:
        if self._has_cached(window, start):
            return
        length, done = len(window), 0
        while done < length:
            count = os.preadv(self._fd, [window[done:]], start + done)
            if not count:
                window[done:] = bytes(length - done)
                break
            done += count
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, start, length, os.POSIX_FADV_DONTNEED)

    def _has_cached(self, window: memoryview, start: int) -> bool:
        """Whether `window` was in the page cache, and was filled from there. The kernel begins to
        read what was not, and a fast disk may be done before it looks again: so it is asked twice.
        """
        try:
            return os.preadv(self._fd, [window[:1]], start, os.RWF_NOWAIT) == 1 and os.preadv(
                self._fd, [window], start, os.RWF_NOWAIT
            ) == len(window)
        except OSError:  # not there, or this file system cannot tell
            return False
