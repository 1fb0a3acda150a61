"""Heartbeats and the lease of beat."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from leadengine.operations.heartbeat import _holder, end_lease, remove_heartbeat, take_lease, write_heartbeat
from tests.environment import url
from tests.operations.conftest import ROOT

pytestmark = pytest.mark.django_db(transaction=True)
TAKE = (
    "import django; django.setup(); from leadengine.operations.heartbeat import take_lease; print(take_lease(name='x'))"
)


def rows(sql: str) -> list[Any]:
    with psycopg.connect(url("leadengine_owner")) as owner:
        return owner.execute(sql).fetchall()


def elsewhere() -> bool:
    """Try to take the lease in a process that ends at once."""
    run = subprocess.run([sys.executable, "-c", TAKE], env={**os.environ}, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip() == "True"


def hold_as(holder: str, seconds: int) -> None:
    with psycopg.connect(url("leadengine_owner")) as owner:
        owner.execute("DELETE FROM operations_lease")
        owner.execute(
            "INSERT INTO operations_lease VALUES ('x', %s, now() + make_interval(secs => %s))", [holder, seconds]
        )


def test_one_row_per_process_written_again_and_again() -> None:
    write_heartbeat(name="worker-1", kind="worker")
    write_heartbeat(name="worker-1", kind="both")
    write_heartbeat(name="sender", kind="sender")
    assert rows("SELECT name, kind FROM operations_heartbeat ORDER BY name") == [
        ("sender", "sender"),
        ("worker-1", "both"),
    ]
    remove_heartbeat(name="sender")
    assert rows("SELECT name FROM operations_heartbeat") == [("worker-1",)]


def test_processes_not_seen_for_a_day_are_forgotten() -> None:
    write_heartbeat(name="old", kind="worker")
    with psycopg.connect(url("leadengine_owner")) as owner:
        owner.execute("UPDATE operations_heartbeat SET at = now() - interval '25 hours'")
    write_heartbeat(name="new", kind="worker")
    assert rows("SELECT name FROM operations_heartbeat") == [("new",)]


def test_only_one_holder_until_the_lease_ends() -> None:
    assert take_lease(name="x")
    assert take_lease(name="x")  # renewed
    assert not elsewhere()
    end_lease(name="x")
    assert elsewhere()


def test_a_lease_of_another_machine_ends_by_time_only() -> None:
    hold_as("elsewhere 1 boot:1", 30)
    assert not take_lease(name="x")
    hold_as("elsewhere 1 boot:1", -1)
    assert take_lease(name="x")


def test_a_killed_holder_of_this_machine_keeps_nobody_waiting() -> None:
    assert elsewhere()  # it has ended since, without giving the lease back
    assert take_lease(name="x")


def test_ending_anothers_lease_does_nothing() -> None:
    hold_as(_holder().replace(" ", "-other ", 1), 30)
    end_lease(name="x")
    assert not take_lease(name="x")
