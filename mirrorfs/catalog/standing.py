"""How a file stands: when its last good session was, and whether something is wrong. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from mirrorfs.mirror import chunk_digests

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.catalog.session import Session

# Smaller files are counted, but not watched one by one: they are many, and seldom change.
WATCHED_BYTES = 1 << 20

State = Literal["good", "incomplete", "never"]


class Standing(NamedTuple):
    """What the sessions of one file say of it. Sizes in bytes, times in ns since the epoch."""

    path: bytes  # below the backing folder
    good_ns: int | None  # the end of its last good session; None if there was none
    last_ns: int  # the end of its last one, or its begin while it goes on
    ending: str  # how that ended; `running` while it goes on
    size: int
    allocated: int
    changed_share: float  # of its data, by the last session
    is_incomplete: bool
    unusual: str
    program: str
    damaged_chunks: int = 0  # that the last scrub has found, and no session has given anew
    # Of how many chunks the digest is known; None if none are kept.
    known_chunks: int | None = None

    @property
    def state(self) -> State:
        """`never` where no session was good yet."""
        if self.good_ns is None:
            return "never"
        return "incomplete" if self.is_incomplete else "good"

    @property
    def is_watched(self) -> bool:
        """Whether it is large enough to be watched by itself."""
        return max(self.allocated, self.size) >= WATCHED_BYTES


def standing(path: bytes, last: Session, good_ns: int | None) -> Standing:
    """How the file at `path` stands after its session `last`; `good_ns` is the end of the last good
    one before that.
    """
    return Standing(
        path,
        last.end_ns if last.is_good else good_ns,
        last.begin_ns if last.end_ns is None else last.end_ns,
        last.ended or "running",
        last.size_after or 0,
        last.allocated_after or 0,
        last.changed_share,
        last.is_incomplete,
        last.unusual,
        last.program,
    )


class Coverage(NamedTuple):
    """How many chunks files have of which digests are kept, and of how many the digest is known."""

    chunks: int
    known_chunks: int


def coverage(files: Iterable[Standing]) -> Coverage:
    """How much of the content of some files is known by its digests."""
    kept = [(one.size, one.known_chunks) for one in files if one.known_chunks is not None]
    chunks = sum(chunk_digests.count(size) for size, _ in kept)
    return Coverage(chunks, min(chunks, sum(known for _, known in kept)))
