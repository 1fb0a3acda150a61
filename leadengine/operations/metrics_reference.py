"""The page docs/reference/metrics.md, made from the metrics themselves."""

from __future__ import annotations

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from leadengine import metrics
from leadengine.operations.collectors import DatabaseCollector

_HEAD = """\
# Metrics

`GET /metrics`, in Prometheus' text format. Made by `manage.py metrics_reference > docs/reference/metrics.md`; a test
compares. `tenant` is the slug, `instance_name` the connection id (at most METRICS_MAX_INSTANCES, then `overflow`);
times are seconds. Every combination of labels that is known beforehand exists from the start, with 0.

"""
_COUNTED = """\
## Counted by the processes

Added up over all that share PROMETHEUS_MULTIPROC_DIR.

"""
_READ = """\

## Read at the scrape

From PostgreSQL, Redis and the queue engine, at most 5 s old, and the same in every replica: `max by`, never `sum`.
`leadengine_collector_up` says which could be read.

"""
_TABLE = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n"
_PROCESS = """\

Beside these: `process_resident_memory_bytes`, `process_cpu_seconds_total` and the like, of the process that answers.
"""


def render_reference() -> str:
    """The page as it should be. Reads the gauges, so it needs a database."""
    counted = sorted(_counted(metric) for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase))
    read = sorted(_row(family, family._labelnames) for family in DatabaseCollector().collect())  # type: ignore[attr-defined]
    return "".join([_HEAD, _COUNTED, _TABLE, *counted, _READ, _TABLE, *read, _PROCESS])


def _counted(metric: MetricWrapperBase) -> str:
    assert metric in REGISTRY._collector_to_names  # noqa: S101 - what is not registered is not served
    return _row(next(iter(metric.describe())), metric._labelnames)


def _row(family: Metric, labels: tuple[str, ...]) -> str:
    name = family.name + ("_total" if family.type == "counter" else "")
    words = ", ".join(f"`{label}`" for label in labels) or "–"
    return f"| `{name}` | {family.type} | {words} | {family.documentation} |\n"
