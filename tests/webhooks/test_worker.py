"""A real worker that is killed amid a call: what it held is delivered by the next one, with the same id."""

from __future__ import annotations

import threading
from pathlib import Path

from django.utils import timezone

from leadengine.accounts.scopes import user_scope
from leadengine.celery import MAINTENANCE, SENDING, app
from leadengine.webhooks.services.delivering import deliver_due
from leadengine.webhooks.services.replaying import send_test
from leadengine.webhooks.tasks import deliver_due as task
from leadengine.webhooks.tasks import erase_old_deliveries
from tests.conftest import World
from tests.operations.conftest import command
from tests.webhooks.receiver import Receiver, attempts, connect, deliveries, due_now

DELIVERIES = 6


def test_outbound_27_a_worker_killed_amid_a_delivery_forgets_none(
    committed_world: World, receiver: Receiver, tmp_path: Path
) -> None:
    world, over = committed_world, threading.Event()
    endpoint, _ = connect(world.admin, receiver.url)
    with user_scope(world.admin):
        for _ in range(DELIVERIES):
            send_test(actor=world.admin, endpoint=endpoint, now=timezone.now())
    receiver.answer = lambda _: (over.wait(30) and 200) or 200
    words = ("worker", "--name", "hooks-1", "--queues", SENDING)
    with command(*words, process="sender", log=tmp_path / "log", WEBHOOK_ALLOW_PRIVATE="true") as worker:
        assert receiver.asked.wait(30), worker.said()
        worker.popen.kill()
        worker.popen.wait()
    over.set()
    rows = deliveries()
    held = {str(row.event_id) for row in rows if row.status == "SENDING"}
    assert set(receiver.ids()) <= held
    assert held, "it was amid a call"
    assert deliver_due() == 0, "the leases hold, and with them the endpoint's hands"
    due_now()
    assert deliver_due() == DELIVERIES
    assert [row.status for row in deliveries()] == ["DELIVERED"] * DELIVERIES
    assert set(receiver.ids()) == {str(row.event_id) for row in rows}
    assert len(receiver.ids()) > DELIVERIES, "what was cut off came twice, with its id"
    assert [one.code for one in attempts()].count("WORKER_LOST") == len(held)


def test_the_beat_asks_for_both_and_each_has_its_queue() -> None:
    tasks = {entry["task"]: entry["schedule"] for entry in app.conf.beat_schedule.values()}
    assert tasks[task.name] == 2.0
    assert erase_old_deliveries.name in tasks
    routes = app.conf.task_routes
    assert (routes[task.name], routes[erase_old_deliveries.name]) == (SENDING, MAINTENANCE)
