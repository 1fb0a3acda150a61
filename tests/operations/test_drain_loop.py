"""`manage.py drain`: quick when woken, sure when nobody wakes it, and gentle in its end."""

from __future__ import annotations

import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from kombu import Connection

from leadengine.accounts.scopes import service_scope
from leadengine.celery import app
from tests.conftest import World
from tests.operations.conftest import Process, Valkey, command, eventually
from tests.whatsapp.inbound import store, text_event
from tickets.models import Message

pytestmark = pytest.mark.django_db(transaction=True)


def stored() -> int:
    with service_scope("test"):
        return int(Message.objects.count())


def started(drain: Process) -> None:
    """Let one message through, so that it is known to listen."""
    store(text_event("primeira"))
    eventually(lambda: stored() == 1)
    assert drain.popen.poll() is None


def wake(valkey: Valkey) -> None:
    with Connection(valkey.url) as connection:
        app.send_task("whatsapp.drain", queue="whatsapp.inbound", connection=connection)


def test_a_wake_up_is_answered_at_once_and_taken_off_the_queue(
    committed_world: World, valkey: Valkey, tmp_path: Path
) -> None:
    with command("drain", process="worker", log=tmp_path / "out", REDIS_URL=valkey.url) as drain:
        started(drain)
        waits = []
        for number in range(8):
            time.sleep(0.11)  # out of step with the look that it takes every second
            store(text_event(f"{number}"))
            began = time.monotonic()
            wake(valkey)
            while stored() != number + 2:
                time.sleep(0.005)
            waits.append(time.monotonic() - began)
        assert sorted(waits)[4] < 0.25
        eventually(lambda: valkey.client.llen("whatsapp.inbound") == 0)
        assert drain.stop() == 0


def test_without_a_wake_up_it_looks_by_itself_and_does_not_spin(
    committed_world: World, valkey: Valkey, tmp_path: Path
) -> None:
    with command("drain", process="worker", log=tmp_path / "out", REDIS_URL=valkey.url) as drain:
        started(drain)
        store(text_event("calada"))
        eventually(lambda: stored() == 2, seconds=3)
        process = psutil.Process(drain.popen.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(3)
        assert sum(process.cpu_times()[:2]) - before < 0.6


def test_goes_on_without_valkey_and_with_it_again(committed_world: World, valkey: Valkey, tmp_path: Path) -> None:
    with command("drain", process="worker", log=tmp_path / "out", REDIS_URL=valkey.url) as drain:
        started(drain)
        valkey.kill()
        store(text_event("sem valkey"))
        eventually(lambda: stored() == 2)
        valkey.start()
        store(text_event("com valkey"))
        eventually(lambda: stored() == 3)
        wake(valkey)
        eventually(lambda: valkey.client.llen("whatsapp.inbound") == 0)
        assert drain.stop() == 0
