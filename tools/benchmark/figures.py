"""Figures with their spread, and ratios of two of them from the same run."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MORE, LESS = "more", "less"  # which is better


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured in every run, in the order of the runs. The unit is the row's."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def smallest(self) -> float:
        return min(self.values)

    @property
    def largest(self) -> float:
        return max(self.values)

    def best(self, better: str) -> float:
        return self.largest if better == MORE else self.smallest

    def over(self, reference: Figure) -> Figure:
        """Run by run, so that what slowed down both at that moment cancels out."""
        pairs = zip(self.values, reference.values, strict=True)
        return Figure(tuple(one / max(other, 1e-9) for one, other in pairs))

    def spelled(self, decimals: int | None = None) -> str:
        """Median (smallest-largest); digits behind the point by size if not given."""
        if decimals is None:
            decimals = 0 if self.median >= 20 else 1 if self.median >= 10 else 2
        low, middle, high = (
            f"{value:,.{decimals}f}" for value in (self.smallest, self.median, self.largest)
        )
        return middle if len(self.values) == 1 else f"{middle} ({low}-{high})"

    def as_json(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "min": self.smallest,
            "max": self.largest,
            "values": list(self.values),
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of mirrorfs over that of its reference in the same run; `better` is MORE or LESS.

    `median`, `smallest` and `largest` are those of the ratios of single runs. `best` is the best
    figure of all runs over the reference's best: what else the machine does can only make a figure
    worse, so that this one holds when the others are disturbed.
    """

    median: float
    smallest: float
    largest: float
    best: float
    better: str

    @classmethod
    def of(cls, figure: Figure, reference: Figure, better: str) -> Ratio:
        ratio = figure.over(reference)
        one, other = figure.best(better), reference.best(better)
        return cls(ratio.median, ratio.smallest, ratio.largest, one / max(other, 1e-9), better)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def spelled(self) -> str:
        return f"{self.median:.2f} ({self.smallest:.2f}-{self.largest:.2f})"


def from_json(found: dict[str, Any]) -> Figure:
    return Figure(tuple(found["values"]))


def row(*cells: str) -> str:
    """One line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    return [row(*cells), "|---" * len(cells) + "|"]


def interleaved(names: Sequence[str], turn: int) -> list[str]:
    """All names, beginning with another one each turn: nobody always follows the same neighbour."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]
