"""Figures, their ratios to the floors, and how they are shown."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("django", "celery", "kombu", "redis", "psycopg", "channels", "daphne", "uvicorn", "uvloop")


@dataclass
class Measure:
    """One figure over all runs."""

    name: str
    unit: str
    runs: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle one: a noisy neighbour spoils a mean."""
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Ratio:
    """A figure by its floor, and what spec/quality.md asks of it; no target: it is only shown."""

    name: str
    value: float
    target: float | None = None
    at_most: bool = False

    def holds(self, tolerance: float) -> bool:
        """Whether the target is met; `tolerance` 0.5 is content with half of it."""
        if self.target is None:
            return True
        return self.value <= self.target / tolerance if self.at_most else self.value >= self.target * tolerance


@dataclass
class Report:
    """All figures of a bench."""

    facts: dict[str, Any]
    measures: dict[str, Measure] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)

    def add(self, name: str, unit: str, value: float) -> None:
        """Note one run's figure."""
        self.measures.setdefault(name, Measure(name, unit)).runs.append(value)

    def compare(
        self, name: str, figure: str, floor: str, target: float | None = None, *, at_most: bool = False
    ) -> None:
        """Set a figure's median beside another's, when both were measured."""
        if figure in self.measures and floor in self.measures and self.measures[floor].median:
            value = self.measures[figure].median / self.measures[floor].median
            self.ratios.append(Ratio(name, value, target, at_most))

    def as_json(self) -> dict[str, Any]:
        """Everything, for a machine."""
        measures = [
            {"name": m.name, "unit": m.unit, "runs": m.runs, "median": m.median, "min": min(m.runs), "max": max(m.runs)}
            for m in self.measures.values()
        ]
        ratios = [{"name": r.name, "value": round(r.value, 3), "target": r.target} for r in self.ratios]
        return {**self.facts, "measures": measures, "ratios": ratios}

    def as_lines(self) -> Iterator[str]:
        """The table, for a person."""
        machine = self.facts["machine"]
        yield f"{machine['cpu']}, {machine['cores']} cores, {machine['memoryGb']} GB, {machine['system']}"
        yield ", ".join(f"{name} {number}" for name, number in self.facts["versions"].items())
        yield ""
        yield f"{'':44}{'median':>10}{'min':>10}{'max':>10}"
        for m in self.measures.values():
            yield f"{m.name:44}{_short(m.median):>10}{_short(min(m.runs)):>10}{_short(max(m.runs)):>10}  {m.unit}"
        yield ""
        for r in self.ratios:
            sign = "<=" if r.at_most else ">="
            goal = f"  (target {sign} {r.target})" if r.target is not None else ""
            yield f"{r.name:64}{r.value:10.2f}{goal}"


def describe(postgres: str, valkey: str) -> dict[str, Any]:
    """The machine and the versions of everything that has a part in the figures."""
    versions = {"python": platform.python_version(), "postgresql": postgres, "valkey": valkey}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = {
        "cpu": _cpu(), "cores": os.cpu_count(), "memoryGb": round(memory), "system": platform.platform(terse=True),
    }  # fmt: skip
    return {"machine": machine, "versions": versions}


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
