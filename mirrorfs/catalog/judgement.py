"""Whether what is known of the files of a place is as it should be. Pure.

A doubt means: say so. A file that is fine and is called into question costs a look.
"""

from __future__ import annotations

import fnmatch
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from mirrorfs.backing.paths import show
from mirrorfs.backing.sizes import duration, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirrorfs.catalog.standing import Standing

RUNNING = "running"
_FOREVER = float("inf")


class Severity(IntEnum):
    """Also the exit code of a monitoring plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3  # it could not be judged


class Found(NamedTuple):
    """A file as the catalog knows it, with the size and the allocated bytes that it has now. One
    without any session has no ending.
    """

    standing: Standing
    is_gone: bool = False  # there is no such file any more, and no client has removed it
    left_as: bytes | None = None  # the temporary name that its last content was left with
    is_new: bool = False  # its last session was its first: all of it has changed

    @property
    def is_running(self) -> bool:
        """Whether a session is under way."""
        return self.standing.ending == RUNNING

    @property
    def is_listed(self) -> bool:
        """Whether it is to be told of by itself; small files are only where something is wrong."""
        standing = self.standing
        if standing.is_watched:
            return True
        is_wrong = standing.is_incomplete or standing.unusual or standing.damaged_chunks
        return not self.is_gone and bool(is_wrong)

    @property
    def is_in_trouble(self) -> bool:
        """Whether someone has to look at it."""
        standing = self.standing
        if standing.is_incomplete or standing.unusual or standing.damaged_chunks or self.is_gone:
            return True
        # The first copy of a file is not there before it is whole.
        return standing.state == "never" and not self.is_running


class Limits(NamedTuple):
    """What is asked for. `match` is a pattern of fnmatch, of paths if it has a slash and else of
    names; empty for the files that are watched. Shares are parts of 1; None is no limit.
    """

    older_than_ns: int
    match: bytes = b""
    changed_above: float | None = None
    free_below: float | None = None

    def is_meant(self, found: Found) -> bool:
        """Whether a file is to be judged."""
        if not self.match:
            return found.is_listed
        path = found.standing.path
        name = path if b"/" in self.match else path.rpartition(b"/")[2]
        return fnmatch.fnmatchcase(name, self.match)

    def is_exceeded(self, found: Found) -> bool:
        """Whether more of a file has changed than should have."""
        limit = self.changed_above
        return limit is not None and not found.is_new and found.standing.changed_share > limit


class Problem(NamedTuple):
    """Something that is not as it should be. Of those of one severity, the one that weighs most is
    told first.
    """

    severity: Severity
    weight: float
    text: str


def order(found: Found) -> tuple[bool, int, bytes]:
    """Sorts files: what is incomplete or damaged first, then what was good longest ago."""
    is_bad = bool(found.standing.is_incomplete or found.standing.damaged_chunks)
    return not is_bad, found.standing.good_ns or 0, found.standing.path


def problems(
    files: Iterable[Found], limits: Limits, now_ns: int, folder: bytes = b""
) -> list[Problem]:
    """What is wrong with the files that `limits` mean; `folder` is put before their names."""
    return [
        problem
        for found in files
        if limits.is_meant(found)
        for problem in _of_file(found, limits, now_ns, show(folder + found.standing.path))
    ]


def _of_file(found: Found, limits: Limits, now_ns: int, name: str) -> list[Problem]:
    """The worst of a file's standing, and what else is to be told of it."""
    standing = found.standing
    since_good = _FOREVER if standing.good_ns is None else now_ns - standing.good_ns
    all_of_it = list[Problem]()
    if standing.damaged_chunks and not found.is_gone:
        count = standing.damaged_chunks
        what = "1 chunk" if count == 1 else f"{count:,} chunks"
        text = f"{name} damaged: {what} of 64 KiB (mirrorfs scrub)"
        all_of_it.append(Problem(Severity.CRITICAL, _FOREVER, text))
    failed = _failed(found, limits, now_ns, name)
    if failed:
        all_of_it.append(Problem(Severity.CRITICAL, since_good, failed))
    elif found.is_gone:
        text = f"{name} is gone, and was not removed through the mount"
        all_of_it.append(Problem(Severity.WARNING, since_good, text))
    if standing.unusual:
        text = f"{name} unusual: {standing.unusual}"
        all_of_it.append(Problem(Severity.WARNING, standing.changed_share, text))
    elif limits.is_exceeded(found):
        limit = share(limits.changed_above or 0)
        text = f"{name} changed {share(standing.changed_share)} (should be < {limit})"
        all_of_it.append(Problem(Severity.WARNING, standing.changed_share, text))
    return all_of_it


def _failed(found: Found, limits: Limits, now_ns: int, name: str) -> str:
    """Why the last copy of a file is not good; empty if it is, or if that is not known yet."""
    standing = found.standing
    good_ns = standing.good_ns
    if standing.is_incomplete:
        last = duration(now_ns - standing.last_ns)
        good = "never good" if good_ns is None else f"last good {duration(now_ns - good_ns)} ago"
        ending = "" if found.is_running else f": {standing.ending} {last} ago"
        return f"{name} incomplete{ending} ({good})"
    if good_ns is None and not found.is_running:
        return f"{name} was never noted as a good copy"
    since_ns = now_ns - (standing.last_ns if good_ns is None else good_ns)
    if found.is_gone or since_ns <= limits.older_than_ns:
        return ""
    limit = duration(limits.older_than_ns)
    if good_ns is None:
        return f"{name} being copied for {duration(since_ns)} (should be < {limit})"
    return f"{name} last good {duration(since_ns)} ago (should be < {limit})"


def free_space(free: int, total: int, limits: Limits, prefix: str = "") -> list[Problem]:
    """Whether the disk has less free than it should; below half of that is critical. In bytes."""
    if limits.free_below is None or not total or free >= limits.free_below * total:
        return []
    part = free / total
    severity = Severity.CRITICAL if part < limits.free_below / 2 else Severity.WARNING
    text = f"{prefix}{share(part)} free (should be > {share(limits.free_below)})"
    return [Problem(severity, 1 - part, text)]


def last_scrub(
    scrubbed_ns: int | None, now_ns: int, older_than_ns: int | None, name: str
) -> list[Problem]:
    """Whether the last complete scrub of the place `name` is too long ago; None is no limit."""
    if older_than_ns is None:
        return []
    since_ns = _FOREVER if scrubbed_ns is None else now_ns - scrubbed_ns
    if since_ns <= older_than_ns:
        return []
    when = "never" if scrubbed_ns is None else f"{duration(now_ns - scrubbed_ns)} ago"
    text = f"{name} last scrubbed {when} (should be < {duration(older_than_ns)})"
    return [Problem(Severity.WARNING, since_ns, text)]


def worst(found: Iterable[Problem]) -> Severity:
    """The severity of all of them together. What could not be judged weighs more than a warning,
    and less than what is known to be bad.
    """
    return max((one.severity for one in found), key=_RANK.index, default=Severity.OK)


def sentence(found: Iterable[Problem]) -> str:
    """The problem that is worst, and how many there are besides; empty if there are none."""
    ordered = sorted(found, key=lambda one: (-_RANK.index(one.severity), -one.weight, one.text))
    if not ordered:
        return ""
    more = f", and {len(ordered) - 1} more" if len(ordered) > 1 else ""
    return ordered[0].text + more


_RANK = [Severity.OK, Severity.WARNING, Severity.UNKNOWN, Severity.CRITICAL]
