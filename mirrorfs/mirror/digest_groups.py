"""What is known of the chunks of one file, group by group: kept in memory, and what is too much of
it in the digest file, which is made when there is need.

Guarantees: memory does not grow with the file. An error of the disk below means that nothing is
known any more, and is not met twice. A digest file that is made or changed here is marked as open.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mirrorfs.backing.digest_file import GROUP_CHUNKS, Chunk, Group, Header, Mark, Stamp
from mirrorfs.mirror import chunk_digests
from mirrorfs.mirror.chunk_digests import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirrorfs.backing.digest_file import DigestFile, Folder, Identity

# They describe 16 GiB, and take 4.5 MiB of memory.
_MAX_GROUPS = 64
SURE = bytes([Chunk.KNOWN, Chunk.ZEROS])
_FORGOTTEN = bytes.maketrans(SURE, bytes(len(SURE)))


class DigestGroups:
    """Of one file. `folder` gives the folder of digest files, None where there is none."""

    def __init__(self, folder: Callable[[], Folder | None], identity: Identity) -> None:
        self._folder = folder
        self._identity = identity
        self._file: DigestFile | None = None
        self._groups: dict[int, Group] = {}
        # Nothing is known, nor will be.
        self.is_lost = False

    @property
    def has_file(self) -> bool:
        """Whether there is a digest file."""
        return self._file is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not self._groups and self._file is None

    def seed(self) -> int:
        """The secret of all digests. Raises OSError where it cannot be had."""
        folder = self._folder()
        if folder is None:
            raise FileNotFoundError
        return folder.seed

    def adopt(self, file: DigestFile) -> None:
        """Take what a digest file holds that is marked as open."""
        self._file = file

    def take_over(self, identity: Identity, stamp: Stamp) -> None:
        """Know what is known of another file, with the same content, whose stamp this is."""
        try:
            folder = self._folder()
            file = None if folder is None else folder.try_open(identity)
        except OSError:  # somebody looks at it, above all
            return
        if folder is None or file is None:
            return
        try:
            if file.header(identity, folder.seed) != Header(
                Mark.CLOSED, identity, folder.seed, stamp
            ):
                return
            chunks = chunk_digests.count(stamp.size)
            for first in range(0, chunks, GROUP_CHUNKS):
                group = file.group(first // GROUP_CHUNKS, folder.seed)
                self.set(first, *group.get(0, min(GROUP_CHUNKS, chunks - first)))
        except OSError:
            self.lose()
        finally:
            file.close()

    def lose(self) -> None:
        """Know nothing from now on, and leave no digest file."""
        self.is_lost = True
        self._groups.clear()
        had_file = self._file is not None
        self.close()
        folder = self._folder() if had_file else None
        if folder is not None:
            with contextlib.suppress(OSError):
                folder.remove(self._identity)

    def get(self, first: int, stop: int) -> tuple[bytes, bytes]:
        """The states and digests of the chunks `[first, stop)`; of fewer if it is lost."""
        pairs = [group.get(a, b) for group, a, b in self._spans(first, stop)]
        return b"".join(states for states, _ in pairs), b"".join(digests for _, digests in pairs)

    def set(self, first: int, states: bytes, digests: bytes = b"") -> None:
        """Let the chunks from `first` on have these; without `digests` those stay as they are."""
        place = 0
        for group, a, b in self._spans(first, first + len(states)):
            end = place + b - a
            some = digests[place * DIGEST_BYTES : end * DIGEST_BYTES]
            group.set(a, states[place:end], some)
            place = end

    def set_all(self, first: int, stop: int, state: Chunk) -> None:
        """Let the chunks `[first, stop)` have this state."""
        for group, a, b in self._spans(first, stop):
            states = bytes([state]) * (b - a)
            if group.states[a:b] != states:
                group.set(a, states)

    def forget(self, first: int, stop: int) -> None:
        """Know nothing of the chunks `[first, stop)`, but which of them are damaged: that ends when
        all of a chunk is given anew.
        """
        for group, a, b in self._spans_that_are(first, stop):
            states = bytes(group.states[a:b])
            left = states.translate(_FORGOTTEN)
            if left != states:
                group.set(a, left)

    def count(self, first: int, stop: int, state: Chunk) -> int:
        """How many of the chunks `[first, stop)` have this state."""
        spans = self._spans_that_are(first, stop)
        return sum(group.states.count(state, a, b) for group, a, b in spans)

    def are_sure(self, first: int, stop: int) -> bool:
        """Whether the content of all chunks `[first, stop)` is known, and not damaged."""
        spans = self._spans(first, stop)
        sure = all(not group.states[a:b].strip(SURE) for group, a, b in spans)
        return sure and not self.is_lost

    def unsure(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """The runs of chunks in `[first, stop)` of which nothing is known."""
        for group, a, b in self._spans(first, stop):
            base, place = first - a, a
            while (start := group.states.find(Chunk.UNKNOWN, place, b)) >= 0:
                rest = group.states[start:b]
                place = start + len(rest) - len(rest.lstrip(b"\0"))
                yield base + start, base + place
            first += b - a

    def cut(self, chunks: int) -> None:
        """Forget the chunks from this number on."""
        number = chunks // GROUP_CHUNKS
        for other in [one for one in self._groups if one > number]:
            del self._groups[other]
        if self._file is not None:
            try:
                self._file.cut(chunks)
            except OSError:
                self.lose()
                return
        if not self.is_empty:
            self.set_all(chunks, (number + 1) * GROUP_CHUNKS, Chunk.UNKNOWN)

    def store(self, stamp: Stamp) -> None:
        """Make all of it durable in the digest file, and mark that as closed, with the stamp of the
        content. Raises OSError.
        """
        for number in list(self._groups):
            self._write(number)
        file, seed = self._opened()
        file.set_header(Header(Mark.OPEN, self._identity, seed, stamp))
        file.sync()
        file.set_header(Header(Mark.CLOSED, self._identity, seed, stamp))

    def close(self) -> None:
        """Let go of the digest file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spans(self, first: int, stop: int) -> Iterator[tuple[Group, int, int]]:
        """The groups of the chunks `[first, stop)`, and which of their chunks those are."""
        while first < stop and not self.is_lost:
            number, place = divmod(first, GROUP_CHUNKS)
            limit = min(stop - first + place, GROUP_CHUNKS)
            try:
                group = self._group(number)
            except OSError:
                self.lose()
                return
            yield group, place, limit
            first += limit - place

    def _spans_that_are(self, first: int, stop: int) -> Iterator[tuple[Group, int, int]]:
        """As `_spans`, without groups of which nothing is known: a file may have any size."""
        numbers = range(first // GROUP_CHUNKS, -(-stop // GROUP_CHUNKS))
        kept = {number for number in self._groups if number in numbers}
        try:
            if self._file is not None:
                kept.update(self._file.groups(numbers.start, numbers.stop))
        except OSError:
            self.lose()
            return
        for number in sorted(kept):
            start = number * GROUP_CHUNKS
            yield from self._spans(max(first, start), min(stop, start + GROUP_CHUNKS))

    def _group(self, number: int) -> Group:
        group = self._groups.pop(number, None)  # the one that was used last comes last
        if group is None:
            if len(self._groups) >= _MAX_GROUPS:
                self._write(next(iter(self._groups)))
            file = self._file
            group = Group() if file is None else file.group(number, self.seed())
        self._groups[number] = group
        return group

    def _write(self, number: int) -> None:
        """Write a group, and keep it no longer."""
        group = self._groups.pop(number)
        if group.is_changed:
            file, seed = self._opened()
            file.set_group(number, group, seed)

    def _opened(self) -> tuple[DigestFile, int]:
        """The digest file, made where there is none, and marked as open; and the seed."""
        seed = self.seed()
        if self._file is None:
            folder = self._folder()
            if folder is None:
                raise FileNotFoundError
            self._file = folder.make(self._identity)
            self._file.set_header(Header(Mark.OPEN, self._identity, seed, Stamp(0, 0, 0)))
        return self._file, seed
