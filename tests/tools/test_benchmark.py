"""What the benchmark says of its own figures: ratios of one run, and what became worse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tools.benchmark import against, figures
from tools.benchmark.figures import LESS, MORE, Figure, Ratio

if TYPE_CHECKING:
    from pathlib import Path


def result(**ratios: Ratio) -> dict[str, Any]:
    return {
        "schema": against.SCHEMA,
        "quick": False,
        "busy": False,
        "ratios": {name: ratio.as_json() for name, ratio in ratios.items()},
    }


def ratio(value: float, better: str, spread: float = 0.0) -> Ratio:
    return Ratio(value, value - spread, value + spread, value, better)


def test_ratio_is_taken_run_by_run() -> None:
    slow_moment = Figure((100.0, 10.0, 100.0))
    assert slow_moment.over(Figure((200.0, 20.0, 200.0))).values == (0.5, 0.5, 0.5)


def test_figure_is_spelled_with_its_spread() -> None:
    assert Figure((1000.0, 3000.0, 2000.0)).spelled() == "2,000 (1,000-3,000)"


@pytest.mark.parametrize(
    ("before", "now", "better", "is_worse"),
    [
        (1.0, 0.89, MORE, True),
        (1.0, 0.91, MORE, False),
        (1.0, 1.5, MORE, False),
        (0.4, 0.45, LESS, True),
        (0.4, 0.43, LESS, False),
        (0.4, 0.2, LESS, False),
    ],
)
def test_change_for_the_worse_by_more_than_a_tenth_is_seen(
    before: float, now: float, better: str, is_worse: bool
) -> None:
    old, new = result(work=ratio(before, better)), result(work=ratio(now, better))
    assert [change.is_worse for change in against.compare(old, new)] == [is_worse]


def test_busy_moment_is_not_taken_for_a_change() -> None:
    reference = Figure((100.0, 100.0, 100.0))
    quiet = Ratio.of(Figure((90.0, 91.0, 92.0)), reference, MORE)
    busy = Ratio.of(Figure((40.0, 50.0, 92.0)), reference, MORE)
    slower = Ratio.of(Figure((70.0, 71.0, 72.0)), reference, MORE)
    seen = [against.compare(result(a=quiet), result(a=now))[0].is_worse for now in (busy, slower)]
    assert seen == [False, True]


def test_comparison_is_of_what_both_runs_have_measured() -> None:
    old = result(speed=ratio(1, MORE), gone=ratio(1, MORE))
    new = result(speed=ratio(1, MORE), added=ratio(1, MORE))
    assert [change.name for change in against.compare(old, new)] == ["speed"]


def test_figure_that_has_gone_is_named_if_its_part_was_measured() -> None:
    old = result(**{name: ratio(1, MORE) for name in ("speed: a", "speed: b", "device: c")})
    new = result(**{"speed: a": ratio(1, MORE)})
    assert against.missing(old, new) == ["speed: b"]
    assert against.remarks(old, new) == ["Measured earlier and not now: speed: b."]


def test_remarks_name_the_run_on_a_busy_machine() -> None:
    old = result(a=ratio(1, MORE)) | {"busy": True}
    assert "earlier run" in against.remarks(old, result(a=ratio(1, MORE)))[0]


def test_comparison_of_runs_with_nothing_in_common_fails() -> None:
    with pytest.raises(SystemExit, match="nothing was measured in both"):
        against.compare(result(a=ratio(1, MORE)), result(b=ratio(1, MORE)))


def test_report_lists_the_worst_first_and_says_what_may_be_chance() -> None:
    old = result(a=ratio(1, MORE), b=ratio(1, MORE, spread=0.5), c=ratio(1, MORE))
    new = result(a=ratio(0.5, MORE), b=ratio(0.8, MORE), c=ratio(1, MORE))
    rows = against.report(against.compare(old, new), [])[-2:]
    assert rows[0] == "| a | 1.00 (1.00-1.00) | 0.50 (0.50-0.50) | 1.00 | 0.50 | 50% | no |"
    assert rows[1].startswith("| b |")
    assert rows[1].endswith("| 20% | yes, may be chance |")


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 1}'])
def test_file_that_cannot_be_compared_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(SystemExit, match=r"old\.json"):
        against.load(tmp_path / "old.json")


def test_quick_run_is_not_compared_with_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(result()))
    with pytest.raises(SystemExit, match="without --quick"):
        against.require_alike(against.load(tmp_path / "old.json"), quick=True)


def test_interleaved_names_are_each_first_once() -> None:
    names = ["a", "b", "c"]
    assert {figures.interleaved(names, turn)[0] for turn in range(3)} == set(names)
    assert all(sorted(figures.interleaved(names, turn)) == names for turn in range(5))
