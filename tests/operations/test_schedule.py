"""Beat: its schedule, its lease, and a queue engine that goes away."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from leadengine.celery import app
from leadengine.operations.checks import check_database
from tests.environment import url
from tests.operations.conftest import Valkey, command, eventually

pytestmark = pytest.mark.django_db(transaction=True)


def waiting(valkey: Valkey, queue: str = "whatsapp.inbound") -> list[dict[str, Any]]:
    return [json.loads(each) for each in valkey.client.lrange(queue, 0, -1)]


def holder() -> int:
    """The process that leads."""
    with psycopg.connect(url("leadengine_owner")) as owner:
        row = owner.execute("SELECT holder FROM operations_lease WHERE name = 'beat'").fetchone()
    return int(row[0].split()[1]) if row else 0


def test_every_task_of_the_schedule_exists_and_expires() -> None:
    app.loader.import_default_modules()
    for entry in app.conf.beat_schedule.values():
        assert entry["task"] in app.tasks
        if isinstance(entry["schedule"], float):
            assert entry["options"]["expires"] <= entry["schedule"]


def test_ticks_every_second_and_beats(valkey: Valkey, tmp_path: Path) -> None:
    with command("beat", process="beat", log=tmp_path / "out", REDIS_URL=valkey.url) as beat:
        eventually(lambda: len(waiting(valkey)) >= 3)
        assert {each["headers"]["task"] for each in waiting(valkey)} == {"whatsapp.drain"}
        assert all(each["headers"]["expires"] for each in waiting(valkey))
        assert check_database()["beat"]["ok"]
        assert beat.stop() == 0
        assert not check_database()["beat"]["ok"]
        assert "Scheduler: Sending" not in beat.said()


def test_two_beats_tick_once_and_the_second_follows_at_once(valkey: Valkey, tmp_path: Path) -> None:
    with (
        command("beat", process="beat", log=tmp_path / "one", REDIS_URL=valkey.url) as one,
        command("beat", process="beat", log=tmp_path / "two", REDIS_URL=valkey.url) as two,
    ):
        eventually(lambda: len(waiting(valkey)) >= 1)
        time.sleep(2)  # both have started by now
        valkey.client.flushdb()
        began = time.monotonic()
        eventually(lambda: len(waiting(valkey)) >= 4)
        assert time.monotonic() - began > 2.5
        leader, other = (one, two) if holder() == one.popen.pid else (two, one)
        leader.popen.send_signal(signal.SIGKILL)
        leader.popen.wait()
        eventually(lambda: holder() == other.popen.pid, seconds=5)


def test_goes_on_after_valkey_was_away(valkey: Valkey, tmp_path: Path) -> None:
    with command("beat", process="beat", log=tmp_path / "out", REDIS_URL=valkey.url) as beat:
        eventually(lambda: waiting(valkey))
        valkey.kill()
        eventually(lambda: "queue_engine_away" in beat.said())
        time.sleep(2)
        assert beat.said().count("queue_engine_away") == 1
        assert check_database()["beat"]["ok"]
        valkey.start()
        valkey.client.flushdb()
        eventually(lambda: waiting(valkey), seconds=3)
        assert beat.popen.poll() is None


def test_without_postgres_it_ticks_to_the_end_of_its_lease(valkey: Valkey, tmp_path: Path) -> None:
    with command("beat", process="beat", log=tmp_path / "out", REDIS_URL=valkey.url) as beat:
        eventually(lambda: waiting(valkey))
        with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
            owner.execute("ALTER TABLE operations_lease RENAME TO lease_gone")
            try:
                eventually(lambda: "lease_not_renewed" in beat.said(), seconds=15)
                valkey.client.flushdb()
                eventually(lambda: waiting(valkey), seconds=3)
            finally:
                owner.execute("ALTER TABLE lease_gone RENAME TO operations_lease")
        assert beat.stop() == 0
