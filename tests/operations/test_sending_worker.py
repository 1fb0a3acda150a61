"""A real sender whose Redis goes away and comes back, and one that has to end while it sends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from leadengine import redis as redis_module
from leadengine.celery import MAINTENANCE, SENDING, app
from tests.api import by_cookie, by_key
from tests.conftest import World
from tests.operations.conftest import Process, Valkey, command, eventually
from tests.outbound import broker_running, conversation, queue, reload
from tickets.models import Message

pytestmark = pytest.mark.django_db(transaction=True)
# The product's worker with a shorter patience at its end.
HASTY = """
import sys
import time
import django
from django.core.management import execute_from_command_line
django.setup()
import leadengine.operations.worker as worker
from leadengine.celery import app
worker.FINISH_SECONDS = 0.5
@app.task(name="test.nap", service="a test")
def nap():
    time.sleep(60)
execute_from_command_line(["manage.py", "worker", *sys.argv[1:]])
"""


@pytest.fixture
def our_redis(committed_world: World, valkey: Valkey, settings: Any) -> Iterator[Valkey]:
    """The test's own server is that of the doors, too."""
    present, settings.REDIS_URL = settings.REDIS_URL, valkey.url
    redis_module.client.cache_clear()
    yield valkey
    settings.REDIS_URL = present
    redis_module.client.cache_clear()


def ask(valkey: Valkey, task: str, queue_name: str, **ids: Any) -> None:
    """What a wake-up, or beat, puts into the engine."""
    with Connection(valkey.url) as connection:
        app.send_task(task, kwargs=ids, queue=queue_name, connection=connection)


def test_outbound_26_redis_stops_the_doors_accept_and_on_its_return_all_leaves_once_and_in_order(
    committed_world: World, our_redis: Valkey, settings: Any, tmp_path: Path
) -> None:
    tickets = [conversation(committed_world, phone=f"+551198888000{n}") for n in range(2)]
    callers = [by_cookie(committed_world.agent), by_key(committed_world.agent)]
    rows = [queue(committed_world, tickets[n % 2], f"{n}") for n in range(6)]
    words = ["worker", "--name", "s", "--queues", f"{SENDING},{MAINTENANCE}"]
    with broker_running() as broker:
        settings.WHATSAPP_BROKER_URL = broker.url
        broker.behave(rate={"max": 1000}, sendDelayMs=700)
        env = {"REDIS_URL": our_redis.url, "WHATSAPP_BROKER_URL": broker.url}
        with command(*words, process="sender", log=tmp_path / "out", **env) as worker:
            ask(our_redis, "tickets.send_due", SENDING, session_id=str(committed_world.line.pk))
            eventually(lambda: len(broker.sent()) == 2, seconds=30)
            our_redis.kill()
            for number, caller in enumerate(callers * 2, 6):
                url = f"/api/tickets/{tickets[number % 2].pk}/messages"
                answer = caller.post(url, {"text": f"{number}"}, "application/json")
                assert answer.status_code == 202
                rows.append(Message(pk=answer.json()["data"]["messageId"], ticket_id=tickets[number % 2].pk))
            eventually(lambda: len(broker.sent()) >= 6, seconds=15)  # it goes on by itself
            assert "redis_away" in worker.said()
            our_redis.start()
            ask(our_redis, "tickets.sweep_outbox", MAINTENANCE)  # beat does it every 10 s
            eventually(lambda: all(reload(row).status == "SENT" for row in rows), seconds=15)
        texts = broker.texts()
    assert sorted(texts) == [f"{n}" for n in range(10)]
    for odd in (0, 1):
        assert [text for text in texts if int(text) % 2 == odd] == [f"{n}" for n in range(odd, 10, 2)]


def test_a_sender_that_has_to_end_is_cut_off_when_its_time_is_over(
    committed_world: World, valkey: Valkey, tmp_path: Path
) -> None:
    env = {"LEADENGINE_PROCESS": "sender", "REDIS_URL": valkey.url}
    worker = Process([sys.executable, "-c", HASTY, "--name", "s", "--queues", SENDING], env, tmp_path / "out")
    try:
        ask(valkey, "test.nap", SENDING)
        eventually(lambda: valkey.client.hlen("unacked"), seconds=30)
        worker.popen.terminate()
        assert worker.popen.wait(10) == 1
        assert "worker_cut_off" in worker.said()
    finally:
        worker.close()
