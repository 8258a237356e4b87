"""Numbers as people read them."""

from __future__ import annotations

import pytest

from mirrorfs.backing import sizes

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1023, "0.999 KiB"),
        (KIB, "1.00 KiB"),
        (9.99 * KIB, "9.99 KiB"),
        (9.999 * KIB, "10.0 KiB"),
        (99.94 * KIB, "99.9 KiB"),
        (99.96 * KIB, "100 KiB"),
        (999 * KIB, "999 KiB"),
        (999.6 * KIB, "0.976 MiB"),
        (1000 * MIB, "0.977 GiB"),
        (1.5 * GIB, "1.50 GiB"),
        (50 * GIB, "50.0 GiB"),
        (5000 * (GIB << 30), "5000 EiB"),
        (-2 * MIB, "-2.00 MiB"),
    ],
)
def test_a_size_has_three_digits(count: float, text: str) -> None:
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
    [(0, "0 %"), (0.00001, "< 0.01 %"), (0.0004, "0.04 %"), (0.0234, "2.3 %"), (1, "100 %")],
)
def test_a_share_is_in_percent(part: float, text: str) -> None:
    assert sizes.share(part) == text
