"""What has become worse since an earlier run: ratio by ratio, never by absolute figures."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.benchmark import figures
from tools.benchmark.figures import MORE, Ratio

SCHEMA = 3
ALLOWED = 0.10
_TITLES = ("worse", "before", "now", "best before", "best now", "by", "runs overlap")


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
        sign = 1 if self.now.better == MORE else -1
        pairs = (self.before.median, self.now.median), (self.before.best, self.now.best)
        gains = [sign * (now / max(before, 1e-9) - 1) for before, now in pairs]
        return 0.0 if min(gains) < 0 < max(gains) else min(gains, key=abs)

    @property
    def is_worse(self) -> bool:
        return self.gain < -ALLOWED

    def cells(self) -> list[str]:
        before, now = self.before, self.now
        # Where single runs of both overlap, it may be chance.
        is_chance = now.smallest <= before.largest and before.smallest <= now.largest
        bests = [f"{ratio.best:.2f}" for ratio in (before, now)]
        overlap = "yes, may be chance" if is_chance else "no"
        return [self.name, before.spelled(), now.spelled(), *bests, f"{-self.gain:.0%}", overlap]


def load(path: Path, quick: bool) -> dict[str, Any]:
    """An earlier result. SystemExit with one line if it cannot be compared with one of now."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise SystemExit(f"tools/bench: {path}: {exc}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or "ratios" not in found:
        raise SystemExit(f"tools/bench: {path}: not a result of this version; measure again")
    if found["quick"] != quick:  # a quarter of the data gives other ratios
        how = "with" if found["quick"] else "without"
        raise SystemExit(f"tools/bench: --against was measured {how} --quick; do the same")
    return found


def compare(old: dict[str, Any], now: dict[str, Ratio]) -> list[Change]:
    """All ratios that both runs have measured, the worst first."""
    before = {name: Ratio(**fields) for name, fields in old["ratios"].items()}
    changes = [Change(name, before[name], ratio) for name, ratio in now.items() if name in before]
    if not changes:
        raise SystemExit("tools/bench: --against: nothing was measured in both runs")
    return sorted(changes, key=lambda change: change.gain)


def remarks(old: dict[str, Any], now: dict[str, Ratio], is_busy: bool) -> list[str]:
    """What to know when reading the comparison; `is_busy` is the machine of this run."""
    found = []
    if old["busy"] or is_busy:
        when = "the earlier" if old["busy"] else "this"
        found.append(
            f"The machine was busy when {when} run began: measure again, with more --runs."
        )
    measured = {_place(name) for name in now}
    gone = [name for name in old["ratios"] if _place(name) in measured and name not in now]
    return [*found, f"Measured earlier and not now: {'; '.join(gone)}."] if gone else found


def _place(name: str) -> str:
    """The part of the benchmark that has measured it, and the file system if it says so."""
    return name.rpartition(": ")[0]


def report(changes: list[Change], notes: list[str]) -> list[str]:
    worse = [change for change in changes if change.is_worse]
    better = sum(change.gain > ALLOWED for change in changes)
    lines = [
        f"Against the earlier run: {len(changes)} ratios compared, {len(worse)} worse and {better} "
        f"better by more than {ALLOWED:.0%}."
    ]
    if worse:
        lines += ["", *figures.table(_TITLES, (change.cells() for change in worse))]
    return [*lines, *(line for note in notes for line in ("", note))]
