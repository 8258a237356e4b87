"""Numbers as people read them. Pure."""

from __future__ import annotations

import pytest

from mirrorfs.backing import sizes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1 << 20, "1.00 MiB"),
        (10 << 30, "10.0 GiB"),
        (812 << 30, "812 GiB"),
        ((1 << 40) - 1, "1.00 TiB"),
        (5 << 60, "5.00 EiB"),
    ],
)
def test_a_size_has_three_digits(count: int, text: str) -> None:
    assert sizes.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (2.34, "2.3 s"),
        (9.97, "10 s"),
        (599, "599 s"),
        (600, "10 min"),
        (90 * 60, "90 min"),
        (7 * 3600, "7 h"),
        (7.5 * 3600, "7.5 h"),
        (26 * 3600, "26 h"),
        (52.4 * 3600, "52 h"),
        (7 * 86_400, "7 d"),
    ],
)
def test_a_span_of_time_is_as_exact_as_it_matters(seconds: float, text: str) -> None:
    assert sizes.duration(int(seconds * 1e9)) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0, "0 %"), (1e-6, "< 0.01 %"), (0.0123, "1.2 %"), (0.4, "40 %"), (1, "100 %")],
)
def test_a_share_is_told_in_percent(part: float, text: str) -> None:
    assert sizes.share(part) == text
