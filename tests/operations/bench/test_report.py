"""Medians, ratios and targets."""

from __future__ import annotations

import json

from leadengine.operations.bench.report import Ratio, Report, describe


def report() -> Report:
    made = Report(describe("18.6", "9.1"))
    for value in (10, 30, 20):
        made.add("product", "x/s", value)
    made.add("floor", "x/s", 10)
    made.compare("product / floor", "product", "floor", 1.5)
    made.compare("absent / floor", "absent", "floor", 1.0)
    return made


def test_ratios_are_made_of_medians() -> None:
    assert [(ratio.name, ratio.value) for ratio in report().ratios] == [("product / floor", 2.0)]


def test_targets() -> None:
    assert Ratio("a", 0.9, 1.0).holds(0.5)
    assert not Ratio("a", 0.9, 1.0).holds(1)
    assert not Ratio("a", 6, 5, at_most=True).holds(1)
    assert Ratio("a", 6, 5, at_most=True).holds(0.5)
    assert Ratio("a", 0).holds(1)


def test_json_and_table() -> None:
    body = json.loads(json.dumps(report().as_json()))
    assert body["measures"][0] == {
        "name": "product", "unit": "x/s", "runs": [10, 30, 20], "median": 20, "min": 10, "max": 30,
    }  # fmt: skip
    assert body["versions"]["postgresql"] == "18.6"
    assert body["machine"]["cores"] >= 1
    table = "\n".join(report().as_lines())
    assert "product / floor" in table
    assert "(target >= 1.5)" in table
