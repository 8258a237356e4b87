"""What has become worse since an earlier run: ratio by ratio, never by absolute figures.

A ratio is one figure of mirrorfs over that of its reference in the same run. Absolute figures
follow what else the machine does, ratios do so much less.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.benchmark import figures
from tools.benchmark.figures import MORE, Ratio

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 2
ALLOWED = 0.10


@dataclass(frozen=True, slots=True)
class Change:
    """One ratio, before and now."""

    name: str
    before: Ratio
    now: Ratio

    @property
    def gain(self) -> float:
        """By what share it became better: 0.1 is 10 % better, -0.1 is 10 % worse.

        By its median or by its best run, whichever has changed less: what is really slower is so in
        both, and a machine that was busy during some runs moves one of them.
        """
        gains = (
            self._gain(self.before.median, self.now.median),
            self._gain(self.before.best, self.now.best),
        )
        return 0.0 if min(gains) < 0 < max(gains) else min(gains, key=abs)

    def _gain(self, before: float, now: float) -> float:
        gain = now / max(before, 1e-9) - 1
        return gain if self.now.better == MORE else -gain

    @property
    def is_worse(self) -> bool:
        return self.gain < -ALLOWED

    @property
    def is_within_spread(self) -> bool:
        """Whether single runs of both overlap, so that it may be chance."""
        return self.now.smallest <= self.before.largest and self.before.smallest <= self.now.largest


def load(path: Path) -> dict[str, Any]:
    """An earlier result. Ends all with one line if it cannot be compared."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise SystemExit(f"tools/bench: {path}: {exc}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or "ratios" not in found:
        raise SystemExit(
            f"tools/bench: {path}: not a result of this version of tools/bench; measure again"
        )
    return found


def require_alike(old: dict[str, Any], quick: bool) -> None:
    """A quarter of the data gives other ratios."""
    if old["quick"] != quick:
        how = "with" if old["quick"] else "without"
        raise SystemExit(f"tools/bench: --against was measured {how} --quick; do the same")


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Everything that both have measured, the worst first."""
    before, now = (
        {name: Ratio(**fields) for name, fields in found["ratios"].items()} for found in (old, new)
    )
    changes = [Change(name, before[name], ratio) for name, ratio in now.items() if name in before]
    if not changes:
        raise SystemExit("tools/bench: --against: nothing was measured in both runs")
    return sorted(changes, key=lambda change: change.gain)


def remarks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What to know when reading the comparison."""
    busy = [when for when, found in (("earlier", old), ("this", new)) if found["busy"]]
    found = [
        f"The machine was busy when the {when} run began: a change may be chance; measure again, "
        "with more --runs."
        for when in busy
    ]
    gone = missing(old, new)
    return [*found, f"Measured earlier and not now: {'; '.join(gone)}."] if gone else found


def missing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What the earlier run has of the parts that were measured now, and this one has not."""
    parts = {name.partition(":")[0] for name in new["ratios"]}
    gone = [name for name in old["ratios"] if name not in new["ratios"]]
    return [name for name in gone if name.partition(":")[0] in parts]


def report(changes: list[Change], notes: list[str]) -> list[str]:
    worse = [change for change in changes if change.is_worse]
    better = sum(change.gain > ALLOWED for change in changes)
    lines = [
        "",
        f"Against the earlier run: {len(changes)} ratios compared, {len(worse)} worse and {better} "
        f"better by more than {ALLOWED:.0%}.",
    ]
    if worse:
        titles = ("worse", "before", "now", "best before", "best now", "by", "runs overlap")
        lines += ["", *figures.head(*titles)]
    lines += [
        figures.row(
            change.name,
            change.before.spelled(),
            change.now.spelled(),
            f"{change.before.best:.2f}",
            f"{change.now.best:.2f}",
            f"{-change.gain:.0%}",
            "yes, may be chance" if change.is_within_spread else "no",
        )
        for change in worse
    ]
    for note in notes:
        lines += ["", note]
    return lines
