"""One race per lock, with threads and real commits; and a real worker that is killed while it sends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope
from leadengine.celery import SENDING, app
from leadengine.redis import client
from tests.conftest import World
from tests.environment import url
from tests.outbound import Broker, accept, at_once, broker_running, claim_due, conversation, queue, reload, send, until
from tests.whatsapp.wire import Wire, closed_port
from tickets.models import Message, OutboundAttempt, Ticket
from tickets.services.outbox import Queued, cancel_message, send_due, sweep_outbox
from tickets.services.outbox.refusals import AlreadySending, NewerMessage
from tickets.transports import get_transport

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        running.behave(rate={"max": 10_000})
        yield running


def claims(world: World) -> list[Any]:
    with tenant_scope(world.ipe.pk):
        line = get_transport("WHATSAPP").line(world.line.pk)
    assert line is not None
    return claim_due(line=line, now=timezone.now())


def test_eight_workers_claim_a_row_once(committed_world: World) -> None:
    ticket = conversation(committed_world)
    for round_ in range(5):
        message = queue(committed_world, ticket, str(round_))
        found = at_once(*[lambda: claims(committed_world)] * 8)
        assert sum(len(one) for one in found) == 1
        assert reload(message).attempts == 1
        sweep_outbox(now=timezone.now() + timedelta(minutes=2))


def test_workers_together_keep_the_cap_of_a_line(committed_world: World, settings: Any) -> None:
    settings.OUTBOUND_CONCURRENCY_PER_SESSION = 3
    for n in range(10):
        queue(committed_world, conversation(committed_world, phone=f"+551198888000{n}"))
    found = at_once(*[lambda: claims(committed_world)] * 6)
    assert sum(len(one) for one in found) == 3
    assert len({claim.place.ticket_id for one in found for claim in one}) == 3


def test_outbound_12_twenty_messages_of_a_ticket_by_four_workers_arrive_in_order(
    committed_world: World, broker: Broker
) -> None:
    tickets = [conversation(committed_world), conversation(committed_world, phone="+5511977776666")]
    # The broker types, so a short message that overtook a long one would arrive before it.
    broker.behave(rate={"max": 10_000}, humanizeMsPerChar=1)
    wanted = {one.pk: [f"{one.number}-{n:02}" + "x" * (80 if n % 2 == 0 else 0) for n in range(20)] for one in tickets}
    rows = [queue(committed_world, one, wanted[one.pk][n]) for n in range(20) for one in tickets]

    def work() -> None:
        while any(reload(row).status in {"QUEUED", "SENDING"} for row in rows):
            send(committed_world)

    assert at_once(*[work] * 4) == [None] * 4
    texts = broker.texts()
    assert len(texts) == 40
    for one in tickets:
        assert [text for text in texts if text.startswith(f"{one.number}-")] == wanted[one.pk]
    assert {reload(row).status for row in rows} == {"SENT"}
    with tenant_scope(committed_world.ipe.pk):
        assert sorted(Ticket.objects.values_list("outbound_count", flat=True)) == [20, 20]
        assert OutboundAttempt.objects.count() == 40
        for one in tickets:
            shown = Message.objects.filter(ticket=one, direction="OUTBOUND").order_by("sent_at", "position")
            assert list(shown.values_list("content", flat=True)) == wanted[one.pk]


def test_a_slow_call_holds_no_connection(committed_world: World, settings: Any) -> None:
    queue(committed_world, conversation(committed_world))
    connection.close()
    with psycopg.connect(url("leadengine_app"), autocommit=True) as watch, Wire() as wire:

        def connections() -> int:
            row = watch.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
            assert row is not None
            return int(row[0])

        def free() -> bool:
            counted.append(connections())
            return counted[-1] == before

        before, counted = connections(), list[int]()
        settings.WHATSAPP_BROKER_URL, wire.hold = wire.url, partial(until, free, 5)
        send(committed_world)
        assert counted[-1] == before


def test_outbound_03_two_doors_with_the_same_key_make_one_row(committed_world: World) -> None:
    first, second = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    for round_ in range(5):
        key = f"k{round_}"
        same = at_once(*[partial(accept, committed_world, first, idempotency_key=key)] * 4)
        assert {queued.message.pk for queued in same} == {same[0].message.pk}
        assert sorted(queued.replayed for queued in same) == [False, True, True, True]
        # Two tickets share no row lock: only the unique key stands between them.
        crossed = at_once(
            partial(accept, committed_world, first, idempotency_key=f"{key}x"),
            partial(accept, committed_world, second, idempotency_key=f"{key}x"),
        )
        codes = sorted(getattr(one, "code", "QUEUED") for one in crossed)
        assert codes == ["IDEMPOTENCY_KEY_REUSED", "QUEUED"]
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.filter(direction="OUTBOUND").count() == 10
        for ticket in Ticket.objects.all():
            positions = list(ticket.messages.order_by("position").values_list("position", flat=True))
            assert positions == list(range(1, ticket.last_position + 1))


def test_outbound_17_two_agents_who_saw_the_same_message_collide_once(committed_world: World) -> None:
    for round_ in range(5):
        ticket = conversation(committed_world, phone=f"+551197777000{round_}")
        with tenant_scope(committed_world.ipe.pk):
            seen = Message.objects.get(ticket=ticket).pk
        found = at_once(
            *[
                partial(accept, committed_world, ticket, author.name, author=author, expected_last_message_id=seen)
                for author in (committed_world.agent, committed_world.agent2)
            ]
        )
        won = [one for one in found if isinstance(one, Queued)]
        lost = [one for one in found if isinstance(one, NewerMessage)]
        assert (len(won), len(lost)) == (1, 1)
        assert lost[0].details["newer"][0]["content"] == won[0].message.content


def test_cancel_against_claim_has_one_winner(committed_world: World) -> None:
    ticket = conversation(committed_world)
    for round_ in range(8):
        message = queue(committed_world, ticket, str(round_))

        def cancel(message: Message = message) -> Any:
            with tenant_scope(committed_world.ipe.pk):
                return cancel_message(actor=committed_world.agent, message_id=message.pk, now=timezone.now())

        canceled, claimed = at_once(cancel, lambda: claims(committed_world))
        status = reload(message).status
        assert (status == "SENDING") == (len(claimed) == 1) == isinstance(canceled, AlreadySending)
        assert status in {"SENDING", "CANCELED"}
        sweep_outbox(now=timezone.now() + timedelta(minutes=2))


def test_echo_and_answer_at_once_make_one_bubble(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    for round_ in range(6):
        message = queue(committed_world, ticket, f"oi {round_}")
        done: list[bool] = []

        def let_in(done: list[bool] = done) -> None:
            while not done or broker.hook.bodies:
                broker.hook.let_in()

        def work(done: list[bool] = done) -> None:
            try:
                send(committed_world)
            finally:
                done.append(True)

        assert at_once(work, let_in) == [None, None]
        assert reload(message).status in {"SENT", "DELIVERED"}
    with tenant_scope(committed_world.ipe.pk):
        after = Ticket.objects.get()
        assert (Message.objects.count(), after.outbound_count, after.last_position) == (7, 6, 7)


def test_line_of_another_tenant_is_not_sent_by_this_one(committed_world: World, broker: Broker) -> None:
    message = queue(committed_world, conversation(committed_world))
    send_due(session_id=committed_world.foreign_line.pk)
    assert reload(message).status == "QUEUED"
    assert broker.sent() == []


# --- A real worker ------------------------------------------------------------------------------------------------


@contextmanager
def worker_running(broker_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """The sending worker as it runs in production: Celery, the threads pool, the connection pool."""
    environment = {**os.environ, "LEADENGINE_PROCESS": "sender", "WHATSAPP_BROKER_URL": broker_url}
    command = [sys.executable, "-m", "django", "worker", "--name", "sender", "--queues", SENDING]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def test_outbound_03_and_19_worker_sends_what_a_door_accepted_and_survives_a_flushed_redis(
    committed_world: World, broker: Broker
) -> None:
    ticket = conversation(committed_world)
    with worker_running(broker.url):
        first = queue(committed_world, ticket, "um", idempotency_key="k")
        until(lambda: reload(first).status == "SENT", 30)
        client().flushdb()
        assert accept(committed_world, ticket, "um", idempotency_key="k").replayed
        second = queue(committed_world, ticket, "dois")
        client().delete(SENDING)  # the wake-up is lost
        client().flushdb()
        sweep_outbox(now=timezone.now())
        until(lambda: reload(second).status == "SENT", 15)
        # What may be taken back for a second, and what was meant for now: nobody sweeps.
        assert committed_world.agent.tenant is not None
        committed_world.agent.tenant.settings = {"undoSeconds": 1}
        third = queue(committed_world, ticket, "três")
        assert reload(third).wait_reason == "UNDO_WINDOW"
        until(lambda: reload(third).status == "SENT", 5)
        fourth = queue(committed_world, ticket, "quatro", scheduled_at=timezone.now() + timedelta(seconds=61))
        with tenant_scope(committed_world.ipe.pk):
            Message.objects.filter(pk=fourth.pk).update(scheduled_at=timezone.now())
        app.send_task("tickets.release_scheduled")  # as the clock does each 2 s
        until(lambda: reload(fourth).status == "SENT", 3)
    assert broker.texts() == ["um", "dois", "três", "quatro"]


def test_worker_tries_again_by_itself(committed_world: World) -> None:
    """No sweeper runs here: the task wakes itself for a retry that is near."""
    port = closed_port()
    message = queue(committed_world, conversation(committed_world))
    with worker_running(f"http://127.0.0.1:{port}"):
        until(lambda: reload(message).wait_reason == "RETRY", 30)
        with Wire(200, {"id": "X1"}, port=port):
            until(lambda: reload(message).status == "SENT", 15)
    assert reload(message).attempts >= 2


def test_outbound_06_killed_worker_leaves_unconfirmed_within_two_minutes_and_the_echo_settles_it(
    committed_world: World, broker: Broker
) -> None:
    ticket = conversation(committed_world)
    broker.behave(sendDelayMs=8_000)
    with worker_running(broker.url) as process:
        message, behind = queue(committed_world, ticket, "um"), queue(committed_world, ticket, "dois")
        until(lambda: broker.asked() == 1, 30)  # the call has arrived: the broker types for 8 s
        assert reload(message).status == "SENDING"
        connection.close()
        process.kill()
        process.wait()
    assert (reload(message).status, reload(behind).status) == ("SENDING", "QUEUED")
    claimed_at = reload(message).claimed_at
    assert claimed_at is not None
    sweep_outbox(now=claimed_at + timedelta(seconds=110))  # the sweeper runs every 10 s
    row = reload(message)
    assert (row.status, (row.error or {})["code"]) == ("UNCONFIRMED", "WORKER_LOST")
    broker.behave(sendDelayMs=0)
    send(committed_world)
    assert (reload(message).status, reload(behind).status) == ("UNCONFIRMED", "SENT")
    for hour in range(24):
        sweep_outbox(now=timezone.now() + timedelta(hours=hour))
        send(committed_world)
    assert reload(message).attempts == 1
    asked = broker.control("state", method="GET")["requests"]
    assert sum(count for route, count in asked.items() if "send-text" in route) == 2
    # The broker, which was still typing when the worker died, sends it in the end.
    broker.settle(lambda: reload(message).status in {"SENT", "DELIVERED"}, 40)
    assert sorted(broker.texts()) == ["dois", "um"]
    assert reload(message).external_id == next(one["id"] for one in broker.sent() if one["text"] == "um")
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 3


def test_stopped_worker_finishes_what_is_in_flight_and_leaves_the_rest(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    broker.behave(sendDelayMs=2000)
    with worker_running(broker.url) as process:
        rows = [queue(committed_world, ticket, str(n)) for n in range(4)]
        until(lambda: reload(rows[0]).status == "SENDING", 30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [reload(row).status for row in rows] == ["SENT", "QUEUED", "QUEUED", "QUEUED"]
    assert broker.texts() == ["0"]
