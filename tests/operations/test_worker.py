"""Real workers: what they consume, what their heartbeat is worth, and how they come back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from kombu import Connection

from leadengine.accounts.scopes import service_scope
from leadengine.operations.checks import check_database
from tests.conftest import World
from tests.operations.conftest import Process, Valkey, Wire, command, eventually
from tests.whatsapp.inbound import store, text_event
from tickets.models import Message

pytestmark = pytest.mark.django_db(transaction=True)
SEND = "whatsapp.send.messages"
# The product's worker with shorter times: ten seconds between two beats, or on a dead socket, make long tests.
HASTY = """
import sys
import time
from django.core.management import execute_from_command_line
import leadengine.operations.heartbeat as heartbeat
from leadengine.celery import app
heartbeat.PERIOD, heartbeat.ALIVE = 0.4, 1.5
app.conf.broker_transport_options["socket_timeout"] = 5
@app.task(name="test.nap", service="a test")
def nap(seconds):
    time.sleep(seconds)
execute_from_command_line(["manage.py", "worker", *sys.argv[1:]])
"""


@contextmanager
def hasty_worker(*words: str, process: str, log: Path, url: str) -> Iterator[Process]:
    env = {"LEADENGINE_PROCESS": process, "REDIS_URL": url}
    running = Process([sys.executable, "-c", HASTY, *words], env, log)
    try:
        yield running
    finally:
        running.close()


def enqueue_drain(url: str) -> None:
    """What a wake-up puts into the engine."""
    from leadengine.celery import app

    with Connection(url) as connection:
        app.send_task("whatsapp.drain", queue="whatsapp.inbound", connection=connection)


def nap(valkey: Valkey, queue: str, seconds: float) -> None:
    """Keep one of the worker's hands busy."""
    from leadengine.celery import app

    with Connection(valkey.url) as connection:
        app.send_task("test.nap", (seconds,), queue=queue, connection=connection)


def stored() -> int:
    with service_scope("test"):
        return int(Message.objects.count())


def drains(valkey: Valkey, text: str) -> None:
    """A message that comes now is processed within a few seconds."""
    before = stored()
    store(text_event(text))
    enqueue_drain(valkey.url)
    eventually(lambda: stored() == before + 1)


@pytest.mark.parametrize(
    ("words", "process", "kind"),
    [(["--name", "w1"], "worker", "worker"), (["--name", "s1", "--queues", SEND], "sender", "sender")],
)
def test_a_worker_beats_while_it_lives_and_ends_gently(
    committed_world: World, valkey: Valkey, tmp_path: Path, words: list[str], process: str, kind: str
) -> None:
    with command("worker", *words, process=process, log=tmp_path / "out", REDIS_URL=valkey.url) as worker:
        eventually(lambda: check_database()["workers"]["alive"] == 1)
        assert worker.stop() == 0
        assert check_database()["workers"]["alive"] == 0
        assert "celery@" not in worker.said()  # no banner
        assert "superuser" not in worker.said()


def test_inbound_is_consumed_in_the_number_of_processes_that_is_set(
    committed_world: World, valkey: Valkey, tmp_path: Path
) -> None:
    env = {"REDIS_URL": valkey.url, "RABBITMQ_WORKER_COUNT": "3"}
    with command("worker", "--name", "w", process="worker", log=tmp_path / "out", **env) as worker:
        drains(valkey, "oi")
        children = Path(f"/proc/{worker.popen.pid}/task/{worker.popen.pid}/children").read_text().split()
        assert len(children) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "process"),
    [(["--name", "w"], "worker"), (["--name", "w", "--queues", f"{SEND},whatsapp.inbound"], "sender")],
)
def test_consumes_again_after_valkey_was_killed(
    committed_world: World, valkey: Valkey, tmp_path: Path, words: list[str], process: str
) -> None:
    with hasty_worker(*words, process=process, log=tmp_path / "out", url=valkey.url) as worker:
        for number in range(3):
            drains(valkey, f"before {number}")
            valkey.kill()
            valkey.start()
            drains(valkey, f"after {number}")
        eventually(lambda: check_database()["workers"]["alive"] == 1)
        assert worker.popen.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize(("words", "process"), [([], "worker"), (["--queues", SEND], "sender")])
def test_lives_on_when_valkey_is_killed_amid_tasks(
    committed_world: World, valkey: Valkey, tmp_path: Path, words: list[str], process: str
) -> None:
    queue = SEND if words else "whatsapp.inbound"
    with hasty_worker("--name", "w", *words, process=process, log=tmp_path / "out", url=valkey.url) as worker:
        eventually(lambda: check_database()["workers"]["alive"] == 1)
        for _ in range(4):
            for _ in range(6):
                nap(valkey, queue, 0.5)
            eventually(lambda: valkey.client.hlen("unacked"))
            valkey.kill()
            valkey.start()
            nap(valkey, queue, 0)
            eventually(lambda: valkey.client.llen(queue) == 0, seconds=10)
        assert worker.popen.poll() is None, worker.said()[-3000:]


@pytest.mark.slow
def test_a_worker_whose_hands_are_full_is_alive(committed_world: World, valkey: Valkey, tmp_path: Path) -> None:
    with hasty_worker("--name", "w", process="worker", log=tmp_path / "out", url=valkey.url) as worker:
        eventually(lambda: check_database()["workers"]["alive"] == 1)
        for _ in range(int(os.environ.get("RABBITMQ_WORKER_COUNT", "2"))):
            nap(valkey, "whatsapp.inbound", 4)
        eventually(lambda: valkey.client.hlen("unacked") == 0, seconds=15)
        assert worker.popen.poll() is None
        assert "worker_deaf" not in worker.said()


@pytest.mark.slow
def test_a_worker_that_hears_nothing_stops_beating_and_ends(
    committed_world: World, valkey: Valkey, wire: Wire, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{wire.port}/0"
    with hasty_worker("--name", "w", process="worker", log=tmp_path / "out", url=url) as worker:
        drains(valkey, "heard")
        wire.go_dead()
        assert worker.popen.wait(60) == 1
        assert "worker_deaf" in worker.said()
    with hasty_worker("--name", "w", process="worker", log=tmp_path / "again", url=url):  # by its supervisor
        drains(valkey, "heard again")


def test_a_killed_worker_leaves_its_heartbeat_to_grow_old(
    committed_world: World, valkey: Valkey, tmp_path: Path
) -> None:
    with command("worker", "--name", "w", process="worker", log=tmp_path / "out", REDIS_URL=valkey.url) as worker:
        eventually(lambda: check_database()["workers"]["alive"] == 1)
        children = Path(f"/proc/{worker.popen.pid}/task/{worker.popen.pid}/children").read_text().split()
        for pid in [worker.popen.pid, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
        worker.popen.wait()
    assert check_database()["workers"]["alive"] == 1  # for 30 s: tests/operations/test_health.py


@pytest.mark.parametrize("queues", ["nothing", "whatsapp.inbound,nothing", " , "])
def test_an_unknown_queue_is_refused(queues: str) -> None:
    with pytest.raises(CommandError, match=r"choose of whatsapp\.send\.messages"):
        call_command("worker", "--queues", queues)
