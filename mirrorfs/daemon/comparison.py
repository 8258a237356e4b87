"""Compares two streams of digests as they come. Memory does not depend on the size of the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrorfs.catalog import ranges
from mirrorfs.errors import MirrorfsError
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.chunk_digests import DIGEST_BYTES
from mirrorfs.mirror.digest_stream import Begin, Digests, End, Refused, Unread, Zeros

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrorfs.daemon.digest_process import DigestProcess
    from mirrorfs.mirror.digest_stream import Runs

EQUAL, DIFFERENT, CHANGED, UNREADABLE = "equal", "different", "changed", "unreadable"
MISSING, SUPERFLUOUS = "missing", "superfluous"


@dataclass(slots=True)
class Compared:
    """What was found of one file; `path` is empty if only one was meant. `differing_chunks` is
    exact; `ranges` (of chunks) are joined where there are more than 4,096. What one file has beyond
    the end of the other is in neither. `changed` names the sides that have changed meanwhile.
    """

    path: bytes
    source_bytes: int | None = None
    target_bytes: int | None = None
    ranges: list[tuple[int, int]] = field(default_factory=list)
    differing_chunks: int = 0
    compared_chunks: int = 0
    changed: list[str] = field(default_factory=list)
    only: str = ""  # MISSING or SUPERFLUOUS
    error: str = ""

    @property
    def differs(self) -> bool:
        """Whether sizes or contents were seen to differ."""
        return self.source_bytes != self.target_bytes or self.differing_chunks > 0

    @property
    def state(self) -> str:
        """In one word. A file that has changed meanwhile is never different: what was read of it is
        no one content.
        """
        if self.error:
            return UNREADABLE
        if self.only:
            return self.only
        if self.changed:
            return CHANGED
        return DIFFERENT if self.differs else EQUAL

    def differ(self, start: int, end: int) -> None:
        """Note that these chunks, which follow those before, differ."""
        self.differing_chunks += end - start
        if self.ranges and self.ranges[-1][1] == start:
            self.ranges[-1] = (self.ranges[-1][0], end)
            return
        self.ranges.append((start, end))
        if len(self.ranges) >= 2 * ranges.MAX_RANGES:
            self.ranges = ranges.bounded(self.ranges)


def compare(
    path: bytes,
    source: DigestProcess,
    target: DigestProcess,
    seed: int,
    tell: Callable[[int, int], None],
) -> Compared:
    """Compare the file that comes next in both streams; `tell` is called with the bytes that were
    passed since the last call, and all that there are in this file. Raises MirrorfsError.
    """
    result = Compared(path)
    ours, theirs = sides = (_Side("source", source), _Side("target", target))
    for side in sides:
        side.begin(result)
    result.source_bytes, result.target_bytes = (
        None if side.begun is None else side.begun.size for side in sides
    )
    if not any(side.is_over for side in sides):
        _compare(result, ours, theirs, seed, tell)
    for side in sides:
        side.pass_rest(result, tell)
    result.ranges = ranges.bounded(result.ranges)
    return result


class _Side:
    """The records of one file of one side."""

    def __init__(self, name: str, process: DigestProcess) -> None:
        self._name, self._process = name, process
        self._run: Runs | None = None
        self._used = 0
        self.begun: Begin | None = None
        self.is_over = False

    def begin(self, result: Compared) -> None:
        record = self._process.next()
        if isinstance(record, Refused):
            self._refuse(record, result)
        elif isinstance(record, Begin) and record.path == result.path:
            self.begun = record
            self.peek(result)
        else:
            raise _out_of_order(self._name)

    def peek(self, result: Compared) -> int:
        """How many chunks of one kind come next; 0 at the end."""
        if self._run is not None and self._used < self._run.chunks:
            return self._run.chunks - self._used
        if self.is_over:
            return 0
        record = self._process.next()
        self._used, self._run = 0, None
        if isinstance(record, Zeros | Unread | Digests):
            self._run = record
            return record.chunks
        if isinstance(record, End):
            self.is_over = True
            if self.begun is not None and (record.size, record.mtime_ns) != (
                self.begun.size,
                self.begun.mtime_ns,
            ):
                result.changed.append(self._name)
        elif isinstance(record, Refused):
            self._refuse(record, result)
        else:
            raise _out_of_order(self._name)
        return 0

    def take(self, count: int) -> Runs:
        """The next `count` chunks, which are of one kind."""
        run, start = self._run, self._used
        self._used += count
        if isinstance(run, Digests):
            return Digests(run.data[start * DIGEST_BYTES : self._used * DIGEST_BYTES])
        return Unread(count) if isinstance(run, Unread) else Zeros(count)

    def pass_rest(self, result: Compared, tell: Callable[[int, int], None]) -> None:
        """Pass what is left of this file."""
        while count := self.peek(result):
            self.take(count)
            tell(0, 0)

    def _refuse(self, record: Refused, result: Compared) -> None:
        self.is_over = True
        if record.gone:
            result.changed.append(self._name)
        else:
            result.error = f"{self._name}: {record.error}"


def _out_of_order(name: str) -> MirrorfsError:
    return MirrorfsError(f"the {name}'s digests come in no order that this version knows")


def _compare(
    result: Compared, source: _Side, target: _Side, seed: int, tell: Callable[[int, int], None]
) -> None:
    """Compare chunk by chunk, as far as both files have them in the same length."""
    sizes = (result.source_bytes or 0, result.target_bytes or 0)
    size = min(sizes)
    is_same = sizes[0] == sizes[1]
    limit = chunk_digests.count(size) if is_same else size // CHUNK_BYTES
    place = 0
    while place < limit:
        count = min(source.peek(result), target.peek(result), limit - place)
        if not count:
            return  # one could not be read to its end
        ours, theirs = source.take(count), target.take(count)
        end = place + count
        if not isinstance(ours, Unread) and not isinstance(theirs, Unread):
            result.compared_chunks += count
            last = min(end * CHUNK_BYTES, size) - (end - 1) * CHUNK_BYTES
            for start, stop in _differing(ours, theirs, last, seed):
                result.differ(place + start, place + stop)
        tell(min(end * CHUNK_BYTES, size) - place * CHUNK_BYTES, size)
        place = end


def _differing(
    ours: Zeros | Digests, theirs: Zeros | Digests, last_bytes: int, seed: int
) -> list[tuple[int, int]]:
    """Which of so many chunks differ; the last one has `last_bytes`."""
    if isinstance(ours, Zeros) and isinstance(theirs, Zeros):
        return []
    first, second = (
        run.data
        if isinstance(run, Digests)
        else chunk_digests.of_zeros(CHUNK_BYTES, seed) * (run.chunks - 1)
        + chunk_digests.of_zeros(last_bytes, seed)
        for run in (ours, theirs)
    )
    if first == second:
        return []
    found: list[tuple[int, int]] = []
    for number in range(ours.chunks):
        place = slice(number * DIGEST_BYTES, (number + 1) * DIGEST_BYTES)
        if first[place] == second[place]:
            continue
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found
