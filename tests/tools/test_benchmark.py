"""What the benchmark says of its own figures: ratios of one run, and what became worse."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from tools.benchmark import against, contenders, copies, figures, machine, nights
from tools.benchmark.figures import LESS, MORE, Figure, Ratio

if TYPE_CHECKING:
    from pathlib import Path


def earlier(busy: Any = False, **ratios: Any) -> dict[str, Any]:
    written = {"schema": against.SCHEMA, "quick": False, "busy": busy, "ratios": ratios}
    result: dict[str, Any] = json.loads(json.dumps(written, default=asdict))
    return result


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
    changes = against.compare(earlier(work=ratio(before, better)), {"work": ratio(now, better)})
    assert [change.is_worse for change in changes] == [is_worse]


def test_busy_moment_is_not_taken_for_a_change() -> None:
    reference = Figure((100.0, 100.0, 100.0))
    quiet = Ratio.of(Figure((90.0, 91.0, 92.0)), reference, MORE)
    busy = Ratio.of(Figure((40.0, 50.0, 92.0)), reference, MORE)
    slower = Ratio.of(Figure((70.0, 71.0, 72.0)), reference, MORE)
    seen = [against.compare(earlier(a=quiet), {"a": now})[0].is_worse for now in (busy, slower)]
    assert seen == [False, True]


def test_only_what_both_have_measured_is_compared() -> None:
    old = earlier(speed=ratio(1, MORE), gone=ratio(1, MORE))
    new = {"speed": ratio(1, MORE), "added": ratio(1, MORE)}
    assert [change.name for change in against.compare(old, new)] == ["speed"]


def test_what_has_gone_is_named_if_its_part_was_measured() -> None:
    old = earlier(**{name: ratio(1, MORE) for name in ("speed: a", "speed: b", "device: c")})
    notes = against.remarks(old, {"speed: a": ratio(1, MORE)}, is_busy=False)
    assert notes == ["Measured earlier and not now: speed: b."]


def test_what_another_file_system_gave_is_not_missed() -> None:
    old = earlier(**{f"speed: {at}: a": ratio(1, MORE) for at in ("ext4", "xfs")})
    assert against.remarks(old, {"speed: xfs: a": ratio(1, MORE)}, is_busy=False) == []


def test_a_busy_machine_is_said() -> None:
    old, new = earlier(busy=True, a=ratio(1, MORE)), {"a": ratio(1, MORE)}
    assert "the earlier run" in against.remarks(old, new, is_busy=False)[0]
    assert "this run" in against.remarks(earlier(a=ratio(1, MORE)), new, is_busy=True)[0]


def test_comparison_of_runs_with_nothing_in_common_fails() -> None:
    with pytest.raises(SystemExit, match="nothing was measured in both"):
        against.compare(earlier(a=ratio(1, MORE)), {"b": ratio(1, MORE)})


def test_the_report_lists_the_worst_first_and_says_what_may_be_chance() -> None:
    old = earlier(a=ratio(1, MORE), b=ratio(1, MORE, spread=0.5), c=ratio(1, MORE))
    new = {"a": ratio(0.5, MORE), "b": ratio(0.8, MORE), "c": ratio(1, MORE)}
    rows = against.report(against.compare(old, new), [])[-2:]
    assert rows[0] == "| a | 1.00 (1.00-1.00) | 0.50 (0.50-0.50) | 1.00 | 0.50 | 50% | no |"
    assert rows[1].startswith("| b |")
    assert rows[1].endswith("| 20% | yes, may be chance |")


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 1}'])
def test_file_that_cannot_be_compared_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(SystemExit, match=r"old\.json"):
        against.load(tmp_path / "old.json", quick=False)


def test_a_quarter_of_the_data_is_not_compared_with_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(earlier()))
    with pytest.raises(SystemExit, match="without --quick"):
        against.load(tmp_path / "old.json", quick=True)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]])
def test_each_is_first_as_often_as_the_others(names: list[str]) -> None:
    turns = [figures.order(names, turn) for turn in range(2 * len(names))]
    assert all(sorted(turn) == names for turn in turns)
    assert {name: sum(turn[0] == name for turn in turns) for name in names} == dict.fromkeys(
        names, 2
    )


def test_rounds_before_the_first_counted_one_are_left_out() -> None:
    turns = iter(range(6))
    taken = figures.in_turns(["a", "b"], 2, lambda _: next(turns), warm_ups=1)
    assert sorted(taken["a"] + taken["b"]) == [2, 3, 4, 5]


def test_a_result_is_written_as_json_and_as_text(tmp_path: Path) -> None:
    image = copies.Images(tmp_path / "first", tmp_path / "second", 3, 2, 1)
    found = {"xfs": {"mirrorfs, cp": [{copies.CHANGED: copies.Cost(1.0, 2.0, 4096, {})}]}}
    result = {**image.data, "copies": found, "ratios": {"a": ratio(1, MORE)}}
    figures.publish(result, nights.lines(found, image), tmp_path / "json", tmp_path / "text")
    written = json.loads((tmp_path / "json").read_text())
    assert written["copies"]["xfs"]["mirrorfs, cp"][0][copies.CHANGED]["device_bytes"] == 4096
    assert "| 4,096 | 4096.000 | 1.0 | 2.0 |" in (tmp_path / "text").read_text()


def test_a_copy_that_failed_is_shown_and_is_no_success(tmp_path: Path) -> None:
    image = copies.Images(tmp_path / "first", tmp_path / "second", 3, 2, 1)
    found: dict[str, nights.Rounds] = {"xfs": {"mirrorfs, cp": [{}]}}
    assert nights.lines(found, image)[-1] == "| xfs | `mirrorfs, cp` | **FAILED** |"
    assert not nights.is_good(found)


@pytest.mark.parametrize("word", ["tmpfs", "memory"])
def test_speed_can_be_measured_in_memory_by_either_name(word: str) -> None:
    parser = figures.parser("tools/bench", None, [*machine.KINDS, machine.TMPFS])
    assert parser.parse_args(["--fs", f"ext4,{word}"]).fs == ["ext4", "tmpfs"]


def test_a_file_system_that_a_tool_cannot_measure_on_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        figures.parser("tools/tooltable", None).parse_args(["--fs", "xfs,tmpfs"])
    assert "tmpfs: only ext4, xfs, btrfs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "disks"), [([], ["xfs"]), (["ext4", "tmpfs"], ["ext4"]), (["tmpfs"], [])]
)
def test_parts_that_need_a_disk_pass_over_tmpfs(
    chosen: list[str], disks: list[str], tmp_path: Path
) -> None:
    setting = contenders.Setting({}, tmp_path, tmp_path, True, 0, chosen, [])
    assert setting.disks(["xfs"]) == disks


def test_the_peer_stands_beside_mirrorfs() -> None:
    names = list(contenders.known(contenders.ROOT))
    assert names.index(contenders.PEER) == names.index(contenders.MIRROR) + 1


def test_a_peer_that_is_not_set_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="tools/bootstrap"):
        contenders.known(tmp_path)
