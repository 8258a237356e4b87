"""Figures with their spread, ratios of two of them from one run, rounds in turns, and tables.

A ratio is one figure of mirrorfs over that of its reference in the same run: absolute figures
follow what else the machine does, ratios do so much less.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from tools.benchmark.machine import KINDS, TMPFS

MORE, LESS = "more", "less"  # which is better

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured in every run, in the order of the runs. The unit is the row's."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def best(self, better: str) -> float:
        return max(self.values) if better == MORE else min(self.values)

    def over(self, reference: Self) -> Self:
        """Run by run, so that what slowed down both at that moment cancels out."""
        pairs = zip(self.values, reference.values, strict=True)
        return type(self)(tuple(one / max(other, 1e-9) for one, other in pairs))

    def spelled(self, decimals: int | None = None) -> str:
        """Median (smallest-largest); digits behind the point by size if not given."""
        if decimals is None:
            decimals = 0 if self.median >= 20 else 1 if self.median >= 10 else 2
        middle, *ends = (
            f"{value:,.{decimals}f}" for value in (self.median, min(self.values), max(self.values))
        )
        return f"{middle} ({'-'.join(ends)})" if len(self.values) > 1 else middle


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
    def of(cls, figure: Figure, reference: Figure, better: str) -> Self:
        ratio = figure.over(reference)
        best = figure.best(better) / max(reference.best(better), 1e-9)
        return cls(ratio.median, min(ratio.values), max(ratio.values), best, better)

    def spelled(self) -> str:
        return f"{self.median:.2f} ({self.smallest:.2f}-{self.largest:.2f})"


@dataclass(frozen=True, slots=True)
class Report:
    """What one part of the benchmark has found: for JSON, for a reader, and for --against."""

    data: dict[str, Any]
    lines: list[str]
    ratios: dict[str, Ratio] = field(default_factory=dict)
    is_good: bool = True


def words(text: str) -> list[str]:
    return text.split(",")


def _kinds(known: Sequence[str], text: str) -> list[str]:
    found = [TMPFS if kind == "memory" else kind for kind in words(text)]
    if unknown := [kind for kind in found if kind not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: only {', '.join(known)}")
    return found


def parser(
    program: str, description: str | None, known: Sequence[str] = KINDS
) -> argparse.ArgumentParser:
    """What all command lines have in common; `known` are the file systems that can be chosen."""
    made = argparse.ArgumentParser(prog=program, description=description)
    add = made.add_argument
    on = f"file systems to measure on, disks as loop devices: {', '.join(known)}"
    add("--fs", type=partial(_kinds, known), default=[], metavar="KIND[,KIND]", help=on)
    add("--peer", type=Path, metavar="DIR", help="measure the mirrorfs of another checkout, too")
    add("--folder", type=Path, default=Path(tempfile.gettempdir()))
    add("--json", type=Path, metavar="FILE")
    add("--markdown", type=Path, metavar="FILE")
    return made


def publish(
    result: dict[str, Any], lines: Sequence[str], json_file: Path | None, text_file: Path | None
) -> None:
    """Print the lines; write them and the result to those files that are given."""
    print("\n".join(lines), flush=True)
    if json_file:
        json_file.write_text(json.dumps(result, indent=1, default=asdict) + "\n")
    if text_file:
        text_file.write_text("\n".join(lines) + "\n")


def in_turns(
    names: Sequence[str], runs: int, measure: Callable[[str], Found], warm_ups: int = 0
) -> dict[str, list[Found]]:
    """Measure every name once a round; the first `warm_ups` rounds do not count."""
    taken: dict[str, list[Found]] = {name: [] for name in names}
    for turn in range(warm_ups + runs):
        for name in order(names, turn):
            taken[name].append(measure(name))
    return {name: found[warm_ups:] for name, found in taken.items()}


def order(names: Sequence[str], turn: int) -> list[str]:
    """All names, so that over the rounds each is first as often, and follows either neighbour."""
    start = turn // 2 % len(names)
    turned = [*names[::-1]] if turn % 2 else [*names]
    return [*turned[start:], *turned[:start]]


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    found = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return [found[0], "|---" * len(titles) + "|", *found[1:]]
