"""What is called good, warned of and critical. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from mirrorfs.catalog import judgement
from mirrorfs.catalog.judgement import Found, Limits, Problem, Severity
from mirrorfs.catalog.standing import WATCHED_BYTES, Standing

HOUR = 3600 * 10**9
NOW = 1_800_000_000 * 10**9
LIMITS = Limits(26 * HOUR)


def file(
    path: bytes = b"vm.img", good_hours: float | None = 7, last_hours: float = 7, **more: Any
) -> Found:
    """A file whose last good session ended so many hours ago."""
    about = {name: more.pop(name) for name in ("is_gone", "left_as", "is_new") if name in more}
    values: dict[str, Any] = {
        "path": path,
        "good_ns": None if good_hours is None else NOW - int(good_hours * HOUR),
        "last_ns": NOW - int(last_hours * HOUR),
        "ending": "closed",
        "size": WATCHED_BYTES,
        "allocated": WATCHED_BYTES,
        "changed_share": 0.01,
        "is_incomplete": False,
        "unusual": "",
        "program": "rsync",
    }
    return Found(Standing(**{**values, **more}), **about)


def judged(found: Found, limits: Limits = LIMITS) -> list[tuple[Severity, str]]:
    return [(one.severity, one.text) for one in judgement.problems([found], limits, NOW)]


@pytest.mark.parametrize(
    ("found", "severity", "text"),
    [
        (file(), None, ""),
        (file(good_hours=26), None, ""),
        (
            file(good_hours=52),
            Severity.CRITICAL,
            "vm.img last good 52 h ago (should be < 26 h)",
        ),
        (
            file(good_hours=31, ending="killed", is_incomplete=True),
            Severity.CRITICAL,
            "vm.img incomplete: killed 7 h ago (last good 31 h ago)",
        ),
        (
            file(good_hours=None, ending="abandoned", is_incomplete=True),
            Severity.CRITICAL,
            "vm.img incomplete: abandoned 7 h ago (never good)",
        ),
        (
            file(good_hours=None, ending=""),
            Severity.CRITICAL,
            "vm.img was never noted as a good copy",
        ),
        (
            file(unusual="62 % of its data turned to zeros"),
            Severity.WARNING,
            "vm.img unusual: 62 % of its data turned to zeros",
        ),
        (
            file(good_hours=300, is_gone=True),
            Severity.WARNING,
            "vm.img is gone, and was not removed through the mount",
        ),
        # What is being copied for the first time is late only when a copy would be.
        (file(good_hours=None, ending="running"), None, ""),
        (
            file(good_hours=None, ending="running", last_hours=30),
            Severity.CRITICAL,
            "vm.img being copied for 30 h (should be < 26 h)",
        ),
        # The next copy is under way, and the last one still is not whole.
        (
            file(good_hours=31, ending="running", is_incomplete=True),
            Severity.CRITICAL,
            "vm.img incomplete (last good 31 h ago)",
        ),
        (file(b"a|\n\xff", good_hours=52), Severity.CRITICAL, r"a|\n\xff last good 52 h ago"),
    ],
)
def test_a_file_is_judged(found: Found, severity: Severity | None, text: str) -> None:
    problems = judged(found)
    if severity is None:
        assert problems == []
    else:
        ((seen, said),) = problems
        assert seen == severity
        assert said.startswith(text)


def test_without_a_pattern_small_files_are_judged_only_where_one_is_incomplete() -> None:
    small: dict[str, Any] = {"size": WATCHED_BYTES - 1, "allocated": 4096}
    assert judged(file(good_hours=500, **small)) == []
    assert judged(file(good_hours=None, ending="", **small)) == []
    ((severity, _),) = judged(file(ending="killed", is_incomplete=True, **small))
    assert severity is Severity.CRITICAL
    ((severity, _),) = judged(file(good_hours=500, **small), Limits(26 * HOUR, b"*.img"))
    assert severity is Severity.CRITICAL


def test_a_sparse_file_is_watched_by_its_size() -> None:
    assert judged(file(good_hours=52, allocated=0))
    assert judged(file(good_hours=52, size=0))


@pytest.mark.parametrize(
    ("pattern", "is_meant"),
    [
        (b"*.img", True),
        (b"vm?.img", True),
        (b"kvm1/*.img", True),
        (b"*/vm3.img", True),
        (b"*.IMG", False),
        (b"vm3", False),
        (b"kvm2/*", False),
    ],
)
def test_a_pattern_is_of_names_or_of_paths(pattern: bytes, is_meant: bool) -> None:
    assert Limits(HOUR, pattern).is_meant(file(b"kvm1/vm3.img")) is is_meant


def test_what_changed_is_judged_against_a_limit_but_for_a_first_copy() -> None:
    limits = Limits(26 * HOUR, changed_above=0.4)
    assert judged(file(changed_share=0.4), limits) == []
    assert judged(file(changed_share=0.6), LIMITS) == []
    assert judged(file(changed_share=1.0, is_new=True), limits) == []
    assert judged(file(changed_share=0.6), limits) == [
        (Severity.WARNING, "vm.img changed 60 % (should be < 40 %)")
    ]
    # Told once, by the reason that says more.
    assert judged(file(changed_share=0.6, unusual="much"), limits) == [
        (Severity.WARNING, "vm.img unusual: much")
    ]


@pytest.mark.parametrize(
    ("free", "severity"),
    [(10, Severity.OK), (9, Severity.WARNING), (5, Severity.WARNING), (4, Severity.CRITICAL)],
)
def test_half_of_the_free_space_that_is_wanted_is_critical(free: int, severity: Severity) -> None:
    found = judgement.free_space(free, 100, Limits(HOUR, free_below=0.1))
    assert judgement.worst(found) is severity
    assert judgement.free_space(free, 100, LIMITS) == []


def test_the_worst_is_told_first_and_the_others_are_counted() -> None:
    files = [
        file(b"warned", unusual="much"),
        file(b"old", good_hours=30),
        file(b"oldest", good_hours=52),
        file(b"well"),
    ]
    found = judgement.problems(files, LIMITS, NOW, b"/mnt/a/")
    assert judgement.worst(found) is Severity.CRITICAL
    said = judgement.sentence(found)
    assert said == "/mnt/a/oldest last good 52 h ago (should be < 26 h), and 2 more"
    found.append(Problem(Severity.CRITICAL, float("inf"), "the daemon is dead"))
    assert judgement.sentence(found) == "the daemon is dead, and 3 more"
    assert judgement.sentence(found[:1]) == "/mnt/a/warned unusual: much"
    assert judgement.sentence([]) == ""
    assert judgement.worst([]) is Severity.OK


def test_what_is_not_known_is_worse_than_a_warning_and_no_excuse_for_what_is_bad() -> None:
    unknown = Problem(Severity.UNKNOWN, 0, "who knows")
    warning = Problem(Severity.WARNING, 9, "look")
    critical = Problem(Severity.CRITICAL, 0, "bad")
    assert judgement.worst([warning, unknown]) is Severity.UNKNOWN
    assert judgement.sentence([warning, unknown]) == "who knows, and 1 more"
    assert judgement.worst([unknown, critical]) is Severity.CRITICAL
    assert judgement.sentence([unknown, critical]) == "bad, and 1 more"


def test_files_are_told_incomplete_ones_first_then_the_oldest() -> None:
    files = [
        file(b"new", good_hours=1),
        file(b"torn", good_hours=2, ending="killed", is_incomplete=True),
        file(b"never", good_hours=None, ending=""),
        file(b"old", good_hours=50),
        file(b"torn-longer", good_hours=9, ending="killed", is_incomplete=True),
    ]
    told = [one.standing.path for one in sorted(files, key=judgement.order)]
    assert told == [b"torn-longer", b"torn", b"never", b"old", b"new"]
