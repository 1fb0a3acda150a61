"""What /metrics says, asked for by name: the whole page holds thousands of samples that other tests have left."""

from __future__ import annotations

from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from leadengine.metrics import everything
from leadengine.operations import metrics_view

Samples = dict[tuple[str, ...], float]


def scrape(*names: str, fresh: bool = False) -> Samples:
    """Samples by (name, label value, …), in the order of the labels' names; all without names.

    `fresh`: gauges of the database are read now, and not of some seconds ago.
    """
    if fresh:
        metrics_view._gauges._at = float("-inf")
    answer = Client().get("/metrics", {"name[]": names})
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {(s.name, *(s.labels[k] for k in sorted(s.labels))): s.value for f in families for s in f.samples}


def samples(name: str) -> list[Sample]:
    """The samples of one name, of this process."""
    return [sample for family in everything([name]).collect() for sample in family.samples if sample.name == name]


def sample(name: str, **labels: str) -> float:
    """One of them; 0 while nothing was counted."""
    return next((one.value for one in samples(name) if one.labels == labels), 0.0)
