"""What `mirrorfs verify` prints: a line for what is not equal, or JSON; and how far it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mirrorfs.backing.paths import path_text, printable, show
from mirrorfs.backing.sizes import share, size
from mirrorfs.cli.output import note
from mirrorfs.cli.progress import Progress
from mirrorfs.daemon import comparison
from mirrorfs.errors import ExitCode
from mirrorfs.mirror.changed_chunks import CHUNK_BYTES
from mirrorfs.mirror.sample import WHOLE

if TYPE_CHECKING:
    from mirrorfs.daemon.comparison import Compared
    from mirrorfs.mirror.sample import Sample

SCHEMA = 1
_SHOWN_RANGES = 10
_STATES = {
    comparison.EQUAL: ExitCode.DONE,
    comparison.CHANGED: ExitCode.CHANGED,
    comparison.UNREADABLE: ExitCode.FAILED,
    comparison.DIFFERENT: ExitCode.DIFFERENCE,
    comparison.MISSING: ExitCode.DIFFERENCE,
    comparison.SUPERFLUOUS: ExitCode.DIFFERENCE,
}
# What is certain comes first.
_RANK = (ExitCode.DIFFERENCE, ExitCode.FAILED, ExitCode.CHANGED, ExitCode.DONE)


class Report:
    """Prints each file as it comes, and in the end what all of them are."""

    def __init__(self, as_json: bool, source: str, target: str, sampled: Sample | None) -> None:
        self._as_json = as_json
        self._source, self._target = source, target
        self._sample = sampled
        self._progress = Progress("compared")
        self._counts = dict.fromkeys(_STATES, 0)
        self._chunks = 0

    def progress(self) -> Progress:
        """The display of how far it is."""
        return self._progress

    def add(self, found: Compared) -> None:
        """Print what was found of one file."""
        self._counts[found.state] += 1
        self._chunks += found.compared_chunks
        lines = [self._json(found)] if self._as_json else self._lines(found)
        if lines:
            self._progress.pause()
            print(*lines, sep="\n", flush=True)

    def _json(self, found: Compared) -> str:
        ends = [count for count in (found.source_bytes, found.target_bytes) if count is not None]
        return json.dumps(
            {
                "schema": SCHEMA,
                "source": path_text(self._source.encode("utf-8", "surrogateescape")),
                "target": path_text(self._target.encode("utf-8", "surrogateescape")),
                "file": path_text(found.path) if found.path else None,
                "state": found.state,
                "source_bytes": found.source_bytes,
                "target_bytes": found.target_bytes,
                "compared_chunks": found.compared_chunks,
                "differing_chunks": found.differing_chunks,
                "ranges": [
                    [start * CHUNK_BYTES, min(end * CHUNK_BYTES, *ends)]
                    for start, end in found.ranges
                ],
                "changed": found.changed,
                "error": found.error or None,
                "sample": None if self._sample is None else self._sample.millionths / WHOLE,
                "sample_seed": None if self._sample is None else f"{self._sample.seed:016x}",
            }
        )

    def _lines(self, found: Compared) -> list[str]:
        name = show(found.path) if found.path else printable(self._target)
        state = found.state
        if state == comparison.EQUAL:
            return []
        if state == comparison.UNREADABLE:
            return [f"{name}: cannot be read: {found.error}"]
        if state == comparison.MISSING:
            return [f"{name}: is missing in the target"]
        if state == comparison.SUPERFLUOUS:
            return [f"{name}: is in the target alone"]
        if state == comparison.CHANGED:
            who = " and ".join(found.changed)
            return [f"{name}: the {who} changed meanwhile; compare again, or with a snapshot"]
        lines = []
        ours, theirs = found.source_bytes or 0, found.target_bytes or 0
        if ours != theirs:
            lines.append(f"{name}: sizes differ: {ours:,} bytes in the source, {theirs:,} here")
        end = min(ours, theirs)
        for first, stop in found.ranges[:_SHOWN_RANGES]:
            start = first * CHUNK_BYTES
            lines.append(
                f"{name}: differs at {size(start)}, {size(min(stop * CHUNK_BYTES, end) - start)}"
            )
        more = len(found.ranges) - _SHOWN_RANGES
        if more > 0:
            chunks = found.differing_chunks
            lines.append(
                f"{name}: and in {more:,} more ranges, {chunks:,} chunks of 64 KiB in all (--json)"
            )
        return lines

    def end(self) -> ExitCode:
        """Print the result of all; returns the exit code."""
        counts = self._counts
        found = {_STATES[state] for state, count in counts.items() if count}
        code = next((code for code in _RANK if code in found), ExitCode.DONE)
        if self._as_json:
            return code
        files = sum(counts.values())
        what = "1 file" if files == 1 else f"{files:,} files"
        parts = [f"{count:,} {state}" for state, count in counts.items() if count]
        print(f"{what} compared: {', '.join(parts) if parts else 'nothing there'}")
        if self._sample is not None:
            part = share(self._sample.millionths / WHOLE)
            print(
                f"Only a sample was read, {part} of the chunks with data; "
                f"--sample-seed {self._sample.seed:016x} takes the same again"
            )
        if not files:
            note("no regular file was found on either side")
        return code
