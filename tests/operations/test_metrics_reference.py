"""docs/reference/metrics.md equals the code."""

from __future__ import annotations

import re

import pytest
import yaml

from leadengine.operations.metrics_reference import render_reference
from tests.conftest import World
from tests.operations.conftest import ROOT

PAGE = ROOT / "docs/reference/metrics.md"


@pytest.mark.django_db(transaction=True)
def test_the_page_of_metrics_equals_the_code(committed_world: World) -> None:
    assert PAGE.read_text(encoding="utf-8") == render_reference()


def test_alerts_name_metrics_that_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (group,) = yaml.safe_load((ROOT / "deploy/prometheus/rules/leadengine.yml").read_text(encoding="utf-8"))["groups"]
    named = {word for rule in group["rules"] for word in re.findall(r"\b(?:turbozap|whatsapp)_\w+", rule["expr"])}
    assert len(named) >= 10
    for word in named:
        assert f"| `{word.removesuffix('_bucket').removesuffix('_count')}` |" in page, word
