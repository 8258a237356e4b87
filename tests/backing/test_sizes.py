"""Numbers as people read them."""

from __future__ import annotations

import pytest

from mirrorfs.backing import sizes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1.00 KiB"),
        (12 << 10, "12.0 KiB"),
        (1023 << 10, "1.00 MiB"),
        (999 << 10, "999 KiB"),
        (50 << 30, "50.0 GiB"),
        (-(3 << 20), "-3.00 MiB"),
        (1 << 70, "1024 EiB"),
    ],
)
def test_a_size_has_three_digits(count: int, text: str) -> None:
    assert sizes.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.26, "4.3 s"),
        (41, "41 s"),
        (599, "599 s"),
        (600, "10 min"),
        (7200, "120 min"),
        (52 * 3600, "52 h"),
        (5 * 86400, "5 d"),
        (-1, "0.0 s"),
    ],
)
def test_a_duration_is_as_exact_as_it_is_short(seconds: float, text: str) -> None:
    assert sizes.duration(round(seconds * 10**9)) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0, "0 %"), (0.00001, "< 0.01 %"), (0.0004, "0.04 %"), (0.0234, "2.3 %"), (1, "100 %")],
)
def test_a_share_is_in_percent(part: float, text: str) -> None:
    assert sizes.share(part) == text
