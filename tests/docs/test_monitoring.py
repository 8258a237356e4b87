"""docs/monitoring/: the alerts as Prometheus judges and tries them, and the dashboard, both held
against the metrics that there are.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mirrorfs.fs import metrics_text
from mirrorfs.mirror.counters import Account
from tests.commands import run

TOP = Path(__file__).parent.parent.parent
FOLDER = TOP / "docs/monitoring"
RULES = FOLDER / "mirrorfs.rules.yml"
TESTS = FOLDER / "mirrorfs.rules.test.yml"
PAGE = TOP / "docs/monitoring.md"
DASHBOARD = json.loads((FOLDER / "mirrorfs-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
# Grafana's own variables, as Prometheus gets them.
VARIABLES = {"$__rate_interval": "5m", "$mount_point": ".*"}


def metric_names() -> set[str]:
    account = Account().snapshot()
    text = metrics_text.text(metrics_text.Labels(b"/m", b"/b"), account, {}, []).decode()
    return set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


def used(text: str) -> set[str]:
    return set(re.findall(r"\bmirrorfs_\w+", text))


def test_promtool_takes_the_rules() -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in run("promtool", "check", "rules", RULES).stdout


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in run("promtool", "test", "rules", TESTS).stdout


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tried_both_ways_and_explained(alert: str) -> None:
    cases = re.split(r"^ +- alertname: ", TESTS.read_text(), flags=re.MULTILINE)[1:]
    own = [case for case in cases if case.split()[0] == alert]
    assert {"exp_alerts:" in case for case in own} == {True, False}
    assert f"`{alert}`" in PAGE.read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 26 * 3600", "> 28 * 3600"),
        ("for: 15m", "for: 0m"),
        ("== 0", "== 2"),
        ("[1h]", "[1m]"),
        ("0.25 *", "0.1 *"),
        ("0.25 *", "0.5 *"),
        ("> 300", "> 3000"),
    ],
)
def test_a_rule_with_another_limit_fails_its_test(tmp_path: Path, old: str, new: str) -> None:
    text = RULES.read_text()
    assert old in text
    (tmp_path / RULES.name).write_text(text.replace(old, new))
    (tmp_path / TESTS.name).write_text(TESTS.read_text())
    assert run("promtool", "test", "rules", tmp_path / TESTS.name, check=False).returncode != 0


def test_rules_and_dashboard_use_metrics_that_there_are() -> None:
    known = metric_names()
    assert used(re.sub(r"#.*", "", RULES.read_text())) - {"mirrorfs_rules"} <= known
    for expression in [*EXPRESSIONS, *(one["definition"] for one in variables("query"))]:
        assert used(expression), expression
        assert used(expression) <= known, expression


def variables(kind: str) -> list[dict[str, Any]]:
    return [one for one in DASHBOARD["templating"]["list"] if one["type"] == kind]


def test_prometheus_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    lines = ["groups:", "- name: dashboard", "  rules:"]
    for number, expression in enumerate(EXPRESSIONS):
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        lines += [f"  - record: r{number}", f"    expr: {json.dumps(expression)}"]
    rules = tmp_path / "rules.yml"
    rules.write_text("\n".join(lines) + "\n")
    done = run("promtool", "check", "rules", rules)
    assert f"SUCCESS: {len(EXPRESSIONS)} rules found" in done.stdout


def test_the_dashboard_has_what_grafana_needs() -> None:
    for key, kind in {
        "uid": str, "title": str, "schemaVersion": int, "version": int, "time": dict,
        "panels": list, "templating": dict, "annotations": dict,
    }.items():  # fmt: skip
        assert isinstance(DASHBOARD[key], kind), key
    assert DASHBOARD.keys() & {"id", "__inputs"} == set()  # of one installation
    sources = [one["name"] for one in variables("datasource")]
    assert sources == ["datasource"]
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "table"}
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {"defaults", "overrides"} <= panel["fieldConfig"].keys()
        assert panel["targets"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)


def test_no_panels_of_the_dashboard_overlap() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    assert all(one["x"] + one["w"] <= 24 for one in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
