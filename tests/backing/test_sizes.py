"""Numbers as people read them."""

from __future__ import annotations

import pytest

from mirrorfs.backing.sizes import size

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
        (5000 * (GIB << 30), "5000 EiB"),
        (-2 * MIB, "-2.00 MiB"),
    ],
)
def test_a_size_has_three_digits(count: float, text: str) -> None:
    assert size(count) == text
