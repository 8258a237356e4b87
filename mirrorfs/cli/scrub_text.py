"""What `mirrorfs scrub` prints: a line for what was found, or JSON; and how far it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mirrorfs.backing.paths import path_text, show
from mirrorfs.backing.sizes import size
from mirrorfs.catalog import ranges, scrubs
from mirrorfs.catalog.session import iso
from mirrorfs.cli.output import note
from mirrorfs.cli.progress import Progress
from mirrorfs.daemon import scrub_repair
from mirrorfs.daemon.scrub import DAMAGED
from mirrorfs.errors import ExitCode
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES

if TYPE_CHECKING:
    from types import TracebackType

    from mirrorfs.catalog.ranges import Ranges
    from mirrorfs.catalog.scrubs import Scrub
    from mirrorfs.daemon.remembered import Place
    from mirrorfs.daemon.scrub import Result

SCHEMA = 1
_SHOWN_RANGES = 10


class Report:
    """Prints each file as it comes, and in the end what all of them are."""

    def __init__(self, place: Place, as_json: bool) -> None:
        self._place = place
        self._as_json = as_json
        self.progress = Progress("scrubbed")
        self._damaged_files = self._failed = 0

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.pause()

    def warn(self, text: str) -> None:
        """Print what hinders the scrub."""
        self.progress.pause()
        note(text)

    def add(self, result: Result) -> None:
        """Print what was found of one file."""
        self._damaged_files += result.state == DAMAGED
        self._failed += bool(result.error)
        lines = [json.dumps(self._file_dict(result))] if self._as_json else _lines(result)
        if lines:
            self.progress.pause()
            print(*lines, sep="\n", flush=True)

    def _file_dict(self, result: Result) -> dict[str, Any]:
        found = result.found
        return {
            "schema": SCHEMA,
            "backing": path_text(self._place.backing),
            "file": path_text(result.path),
            "size": result.size,
            "state": result.state,
            "read_bytes": found.read_bytes,
            "learned_chunks": found.learned_chunks,
            "well_again_chunks": found.well_again_chunks,
            "damaged_chunks": ranges.count(found.damaged),
            "damaged": _in_bytes(found.damaged, result.size),
            "unreadable_chunks": ranges.count(found.unreadable),
            "unreadable": [[one.start, one.end] for one in found.bad],
            "repaired_chunks": result.repaired_chunks,
            "changed_beside": result.is_changed_beside,
            "error": result.error or None,
        }

    def end(self, scrub: Scrub, is_kept: bool, unread: int) -> ExitCode:
        """Print the result of all; returns the exit code."""
        self.progress.pause()
        if self._as_json:
            print(json.dumps(self._scrub_dict(scrub)))
        else:
            print(self._summary(scrub, is_kept))
        if self._damaged_files:
            return ExitCode.DIFFERENCE
        return ExitCode.FAILED if self._failed or unread else ExitCode.DONE

    def _scrub_dict(self, scrub: Scrub) -> dict[str, Any]:
        counts = scrub.counts
        place = scrub.next
        return {
            "schema": SCHEMA,
            "backing": path_text(self._place.backing),
            "below": path_text(scrub.below),
            "begin": iso(scrub.begin_ns),
            "end": iso(scrub.end_ns),
            "complete": scrub.ended == scrubs.COMPLETE,
            "next_file": None if place is None else path_text(place.path.rstrip(b"\0")),
            "files": counts.files,
            "small_files": counts.small_files,
            "in_use_files": counts.busy_files,
            "changed_files": counts.changed_files,
            "failed_files": counts.failed_files,
            "read_bytes": counts.read_bytes,
            "learned_chunks": counts.learned_chunks,
            "well_again_chunks": counts.well_again_chunks,
            "damaged_chunks": counts.damaged_chunks,
            "unreadable_chunks": counts.unreadable_chunks,
            "repaired_chunks": counts.repaired_chunks,
        }

    def _summary(self, scrub: Scrub, is_kept: bool) -> str:
        counts = scrub.counts
        checked = counts.files - counts.busy_files - counts.failed_files
        parts = [f"{_files(checked)} scrubbed, {size(counts.read_bytes)} read"]
        numbers = (
            (counts.damaged_chunks, "damaged"),
            (counts.unreadable_chunks, "unreadable"),
            (counts.repaired_chunks, "repaired"),
            (counts.well_again_chunks, "read well again"),
            (counts.learned_chunks, "learned"),
        )
        chunks = [f"{count:,} {what}" for count, what in numbers if count]
        if chunks:
            parts.append(f"chunks of 64 KiB: {', '.join(chunks)}")
        if counts.read_bytes and not counts.damaged_chunks and not counts.unreadable_chunks:
            is_over = scrub.ended == scrubs.COMPLETE
            parts.append("nothing is damaged" if is_over else "nothing is damaged so far")
        if counts.busy_files:
            parts.append(f"{_files(counts.busy_files)} in use left out")
        if counts.small_files:
            parts.append(f"of {_files(counts.small_files)} below 1 MiB no digests are kept")
        if scrub.ended != scrubs.COMPLETE:
            parts.append(
                "stopped; the next scrub goes on there"
                if is_kept
                else "stopped; the next scrub begins anew, as there is no catalog (history=0)"
            )
        return f"{show(self._place.name)}: {'; '.join(parts)}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count:,} chunks"


def _in_bytes(chunks: Ranges, end: int) -> list[list[int]]:
    joined = ranges.bounded(chunks)
    return [[start * CHUNK_BYTES, min(stop * CHUNK_BYTES, end)] for start, stop in joined]


def _lines(result: Result) -> list[str]:
    name, found = show(result.path), result.found
    lines = []
    if result.is_changed_beside:
        lines.append(f"{name}: was changed beside the mount; its digests are learned anew")
    for start, end in _in_bytes(found.damaged, result.size)[:_SHOWN_RANGES]:
        lines.append(f"{name}: damaged at {size(start)}, {size(end - start)}")
    if len(found.damaged) > _SHOWN_RANGES:
        more, all_ = len(found.damaged) - _SHOWN_RANGES, ranges.count(found.damaged)
        lines.append(f"{name}: and in {more:,} more places, {_chunks(all_)} of 64 KiB in all")
    lines += [
        f"{name}: cannot be read at {size(one.start)}, {size(one.end - one.start)}: {one.error}"
        for one in found.bad[:_SHOWN_RANGES]
    ]
    if len(found.bad) > _SHOWN_RANGES:
        lines.append(f"{name}: nor in {len(found.bad) - _SHOWN_RANGES:,} more places (--json)")
    if found.well_again_chunks:
        lines.append(
            f"{name}: {_chunks(found.well_again_chunks)} that were damaged read well again"
        )
    if result.repaired_chunks:
        lines.append(f"{name}: {_chunks(result.repaired_chunks)} repaired")
    lines += [
        f"{name}: not repaired at {size(one.chunk * CHUNK_BYTES)}: {one.result}"
        for one in result.outcomes
        if one.result != scrub_repair.REPAIRED
    ][:_SHOWN_RANGES]
    if result.is_in_use:
        lines.append(f"{name}: in use; left out")
    if result.error:
        lines.append(f"{name}: cannot be scrubbed: {result.error}")
    return lines
