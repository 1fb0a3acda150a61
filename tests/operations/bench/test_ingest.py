"""`bench ingest` end to end, small: it measures, its scripts run in pgbench, and it leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from leadengine.operations.bench import ingest
from leadengine.operations.bench.ingest import DRAIN, INSERT, PATH, PIPELINE, Size, bench_ingest
from tests.operations.conftest import ROOT

TINY = Size(1, ("daphne",), 1, 0.5, 20, 200, 1, 1, (0.2,))


@pytest.mark.slow
async def test_measures_everything_and_leaves_nothing(reachable_dir: Path) -> None:
    data_dir = reachable_dir / "bench"
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    report = await bench_ingest(data_dir=data_dir, size=TINY, say=lambda _: None)
    figures = {name: measure.median for name, measure in report.measures.items()}
    for name in (INSERT, PIPELINE, DRAIN, f"{PATH}, daphne", "door accepts, daphne (webhooks/s)"):
        assert figures[name] > 0, figures
    assert figures["frames delivered, daphne (share)"] == 1
    assert {"Q2 worker / F3", "Q2 whole path on daphne / F3", "Q1 door on daphne / F2"} <= {
        r.name for r in report.ratios
    }
    assert not data_dir.exists()
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before


@pytest.mark.slow
def test_explain_prints_the_statements_of_one_message(reachable_dir: Path) -> None:
    words = [sys.executable, "manage.py", "bench", "ingest", "--explain", "--data-dir", str(reachable_dir / "bench")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    new, known = done.stdout.split("-- One message of a known contact")
    for text in ("INSERT INTO leads_contact ", "INSERT INTO tickets_ticket ", "INSERT INTO tickets_message "):
        assert text in new
    assert "INSERT INTO tickets_message " in known
    assert "INSERT INTO leads_contact " not in known
    assert "pg_try_advisory_xact_lock" in known
    assert list(reachable_dir.iterdir()) == []


def test_a_failed_part_is_one_sentence(reachable_dir: Path) -> None:
    words = [sys.executable, "manage.py", "bench", "ingest", "--short", "--data-dir", "/proc/nowhere"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_short_form_measures_the_same_as_the_full_one() -> None:
    assert ingest.SHORT.runs == 1
    assert ingest.FULL.runs == 3
    assert set(ingest.SHORT.servers) <= set(ingest.FULL.servers)
    assert json.dumps(ingest.FULL.offers)
