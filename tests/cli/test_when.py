"""Times and shares as users type them. Pure."""

from __future__ import annotations

import datetime

import pytest

from mirrorfs.cli import when
from mirrorfs.errors import UsageError

SECOND = 10**9
NOW = 1_800_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("90m", 5400), ("26h", 93_600), ("7d", 604_800), ("2w", 1_209_600), ("0s", 0)],
)
def test_a_span_is_a_number_and_a_letter(text: str, seconds: int) -> None:
    assert when.span(text, "--since") == seconds * SECOND
    assert when.point(text, "--since", NOW) == NOW - seconds * SECOND


@pytest.mark.parametrize("text", ["", "26", "h", "-1h", "1.5h", "26 hours", "26H", "9" * 50 + "h"])
def test_what_is_no_span_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"--older-than: .* is no span of time"):
        when.span(text, "--older-than")


@pytest.mark.parametrize(
    "text",
    ["2026-01-31", "2026-01-31T02:30", "2026-01-31 02:30:15", "2026-01-31T02:30+05:00"],
)
def test_a_point_of_time_is_an_iso_date_local_unless_it_names_a_zone(text: str) -> None:
    expected = datetime.datetime.fromisoformat(text).timestamp()
    assert when.point(text, "--since", NOW) == int(expected) * SECOND


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "31.1.2026", "", "9999-12-31"])
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"--since: .* is no time"):
        when.point(text, "--since", NOW)


@pytest.mark.parametrize(("text", "part"), [("40%", 0.4), ("40", 0.4), ("0.5%", 0.005), ("0", 0)])
def test_a_share_is_a_number_of_percent(text: str, part: float) -> None:
    assert when.share(text, "--free-below") == part


@pytest.mark.parametrize("text", ["", "%", "-1%", "101%", "many", "1e1", "nan"])
def test_what_is_no_share_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"--free-below: .* is no share"):
        when.share(text, "--free-below")
