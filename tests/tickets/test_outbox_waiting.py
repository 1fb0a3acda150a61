"""What waits, and for what: an offline line, a pause, a retry; until when, and what ends it (spec/outbound.md 8)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.operations.checks import describe_whatsapp
from leadengine.redis import client
from tests.api import by_cookie
from tests.conftest import World
from tests.outbound import Broker, broker_running, conversation, due_now, queue, reload, send
from tests.whatsapp.wire import closed_port
from tickets.models import Message, OutboundAttempt
from tickets.services.outbox import sweep_outbox, wake_session
from tickets.transports import SendOrder, Sent
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving
from whatsapp.services.sessions.acting import release_session
from whatsapp.services.sessions.syncing import sync_sessions
from whatsapp.services.sessions.wishes import Asker
from whatsapp.transport import BrokerTransport

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker(settings: Any) -> Iterator[Broker]:
    with broker_running() as running:
        settings.WHATSAPP_BROKER_URL = running.url
        yield running


def attempts(message: Message) -> list[tuple[int, str, str]]:
    with service_scope("test"):
        rows = OutboundAttempt.objects.filter(message=message).order_by("claimed_at")
        return list(rows.values_list("number", "outcome", "code"))


def test_offline_line_waits_as_one_and_leaves_in_order_when_it_connects(committed_world: World, broker: Broker) -> None:
    first = conversation(committed_world)
    second = conversation(committed_world, phone="+5511977776666")
    broker.behave(offline=True)
    rows = [queue(committed_world, first, "um"), queue(committed_world, second, "dois")]
    send(committed_world)
    rows += [
        queue(committed_world, first, "três"),
        queue(committed_world, conversation(committed_world, phone="+5511966665555"), "quatro"),
    ]
    send(committed_world)
    waiting = [reload(row) for row in rows]
    assert {(row.status, row.wait_reason, row.attempts) for row in waiting} == {("QUEUED", "SESSION_OFFLINE", 0)}
    assert waiting[0].error is not None
    assert waiting[0].error["code"] == "INSTANCE_DISCONNECTED"
    assert waiting[0].not_before
    assert 55 < (waiting[0].not_before - timezone.now()).total_seconds() <= 60
    assert waiting[3].error is None  # held back with the line, never tried
    assert attempts(rows[0]) == []
    assert broker.sent() == []
    broker.behave()
    send(committed_world)
    assert broker.sent() == []  # not before its time, or the news of a connection
    with tenant_scope(committed_world.ipe.pk):
        wake_session(session_id=committed_world.line.pk, now=timezone.now())
    send(committed_world)
    assert [reload(row).status for row in rows] == ["SENT"] * 4
    texts = broker.texts()
    assert sorted(texts) == ["dois", "quatro", "três", "um"]
    assert texts.index("um") < texts.index("três")


def test_outbound_13_a_line_that_was_offline_for_ten_minutes_sends_once_and_in_order_when_it_is_back(
    committed_world: World, broker: Broker, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    call = BrokerTransport.send

    def counted(transport: BrokerTransport, order: SendOrder) -> Sent:
        calls.append(order.message_id)
        return call(transport, order)

    monkeypatch.setattr(BrokerTransport, "send", counted)
    tickets = [conversation(committed_world), conversation(committed_world, phone="+5511977776666")]
    broker.behave(offline=True)
    broker.control("ipe-01/close", {"statusCode": 428})
    sync_sessions(now=timezone.now())
    rows = [
        queue(committed_world, ticket, f"{ticket.number}-{n}", when_unavailable="queue")
        for n in range(3)
        for ticket in tickets
    ]
    for minute in range(1, 11):
        send(committed_world)
        assert len(calls) == minute  # one asks, and not all of them
        assert {reload(row).wait_reason for row in (rows[0], rows[1])} == {"SESSION_OFFLINE"}
        with tenant_scope(committed_world.ipe.pk):  # a minute passes
            Message.objects.filter(not_before__isnull=False).update(not_before=F("not_before") - timedelta(minutes=1))
        assert sweep_outbox(now=timezone.now()) == 1
    broker.behave()
    broker.control("ipe-01/open")
    client().flushdb()
    assert settings.WHATSAPP_RECONNECT_INTERVAL <= 5
    sync_sessions(now=timezone.now())
    assert client().exists(f"wake:send:{committed_world.line.pk}")  # its sender wakes with the news
    send(committed_world)
    assert {(reload(row).status, reload(row).attempts) for row in rows} == {("SENT", 1)}
    for ticket in tickets:
        own = [text for text in broker.texts() if text.startswith(f"{ticket.number}-")]
        assert own == [f"{ticket.number}-{n}" for n in range(3)]


def test_missing_instance_waits_like_an_offline_one(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(broker_instance_id="nowhere")
    message = queue(committed_world, ticket)
    send(committed_world)
    row = reload(message)
    assert (row.status, row.wait_reason, row.attempts) == ("QUEUED", "SESSION_OFFLINE", 0)
    assert row.error is not None
    assert row.error["code"] == "INSTANCE_NOT_FOUND"


def test_rate_limit_of_the_broker_is_a_pause_of_the_line(committed_world: World, broker: Broker) -> None:
    broker.behave(rate={"max": 2, "windowMs": 2000})
    tickets = [conversation(committed_world, phone=f"+551198888000{n}") for n in range(4)]
    rows = [queue(committed_world, ticket, str(n)) for n, ticket in enumerate(tickets)]
    due = send(committed_world)
    states = [reload(row) for row in rows]
    assert sorted(row.status for row in states) == ["QUEUED", "QUEUED", "SENT", "SENT"]
    held = [row for row in states if row.status == "QUEUED"]
    assert {(row.wait_reason, row.attempts) for row in held} == {("PACING", 0)}
    assert due is not None
    assert 14 < (due - timezone.now()).total_seconds() < 19
    newcomer = queue(committed_world, tickets[0])
    assert reload(newcomer).wait_reason == "PACING"
    broker.behave(rate={"max": 20})
    due_now(committed_world)
    send(committed_world)
    assert {reload(row).status for row in [*rows, newcomer]} == {"SENT"}
    assert len(broker.sent()) == 5


def test_outbound_07_a_risk_pause_is_held_without_another_call_until_release(
    committed_world: World, broker: Broker
) -> None:
    broker.behave(risk={"threshold": 0})
    ticket, known = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    broker.control("ipe-01/inbound", {"from": "5511977776666", "text": "Oi"})
    first = queue(committed_world, ticket, "primeira")  # a fresh instance lets one stranger pass
    held, behind = queue(committed_world, ticket, "um"), queue(committed_world, ticket, "dois")
    assert send(committed_world) is None
    assert reload(first).status == "SENT"
    row = reload(held)
    assert (row.status, row.wait_reason, row.not_before, row.attempts) == ("QUEUED", "RISK_PAUSED", None, 0)
    with tenant_scope(committed_world.ipe.pk):
        assert WhatsAppSession.objects.get().risk_paused
    broker.behave()
    answer = queue(committed_world, known, "conhecido")
    send(committed_world)
    assert sweep_outbox(now=timezone.now()) == 1  # `dois` is due, but behind
    send(committed_world)
    assert broker.texts() == ["primeira", "conhecido"]
    assert reload(answer).status == "SENT"
    assert reload(behind).status == "QUEUED"
    assert reload(held).wait_reason == "RISK_PAUSED"
    supervisor = committed_world.supervisor
    release_session(session=committed_world.line, asker=Asker(supervisor, lambda: user_scope(supervisor)))
    send(committed_world)
    assert broker.texts() == ["primeira", "conhecido", "um", "dois"]
    assert attempts(held) == [(1, "SENT", "OK")]


def test_unreachable_broker_is_tried_again_and_seen_on_the_bubble(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    ticket = conversation(committed_world)
    first, second = queue(committed_world, ticket, "um"), queue(committed_world, ticket, "dois")
    assert reload(second).wait_reason == "ORDER"
    for number, seconds in enumerate((2, 5, 15, 30, 60, 60), 1):
        due_now(committed_world)
        due = send(committed_world)
        row = reload(first)
        assert (row.status, row.wait_reason, row.attempts) == ("QUEUED", "RETRY", number)
        assert row.error == {
            "code": "BROKER_UNREACHABLE", "message": "O serviço do WhatsApp está fora do ar.", "retryable": True,
        }  # fmt: skip
        assert due is not None
        assert due == row.not_before
        assert seconds * 0.8 - 1 < (due - timezone.now()).total_seconds() <= seconds * 1.2
        assert reload(second).attempts == 0  # its successor does not pass
    assert attempts(first) == [(n, "QUEUED", "BROKER_UNREACHABLE") for n in range(1, 7)]
    with broker_running() as broker:
        settings.WHATSAPP_BROKER_URL = broker.url
        due_now(committed_world)
        send(committed_world)
        assert broker.texts() == ["um", "dois"]
    assert (reload(first).status, reload(first).error) == ("SENT", None)


def test_retries_end_expired_with_their_cause_and_release_the_next(committed_world: World, settings: Any) -> None:
    settings.WHATSAPP_BROKER_URL = f"http://127.0.0.1:{closed_port()}"
    settings.OUTBOUND_MAX_ATTEMPTS = 2
    ticket = conversation(committed_world)
    first, second = queue(committed_world, ticket, "um"), queue(committed_world, ticket, "dois")
    for _ in range(2):
        due_now(committed_world)
        send(committed_world)
    row = reload(first)
    assert row.status == "FAILED"
    assert row.failed_at is not None
    assert row.error is not None
    assert (row.error["code"], row.error["cause"], row.error["retryable"]) == ("EXPIRED", "BROKER_UNREACHABLE", True)
    assert reload(second).attempts == 1


def test_outbound_13_what_waited_too_long_ends_expired_with_its_cause(
    committed_world: World, broker: Broker, settings: Any
) -> None:
    broker.behave(offline=True)
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket)
    send(committed_world)
    limit = timedelta(seconds=settings.OUTBOUND_MAX_AGE_SECONDS)
    sweep_outbox(now=timezone.now() + limit - timedelta(seconds=5))
    assert reload(message).status == "QUEUED"
    sweep_outbox(now=timezone.now() + limit + timedelta(seconds=5))
    row = reload(message)
    assert row.status == "FAILED"
    assert row.error is not None
    assert row.wait_reason is None
    assert (row.error["code"], row.error["cause"]) == ("EXPIRED", "INSTANCE_DISCONNECTED")


def test_outbound_14_a_401_of_the_broker_is_a_retry_and_never_our_own(
    committed_world: World, broker: Broker, settings: Any
) -> None:
    settings.WHATSAPP_BROKER_API_KEY = ["wrong-key-of-ours"]
    ticket, person = conversation(committed_world), by_cookie(committed_world.supervisor)
    answer = person.post(f"/api/tickets/{ticket.pk}/messages", {"text": "Olá"}, "application/json")
    assert answer.status_code == 202
    with tenant_scope(committed_world.ipe.pk):
        message = Message.objects.get(direction="OUTBOUND")
    send(committed_world)
    shown = person.get(f"/api/messages/{message.pk}?include=attempts").json()["data"]
    assert [(one["code"], one["brokerStatus"]) for one in shown["attemptRows"]] == [("BROKER_AUTH", 401)]
    assert describe_whatsapp()["broker"]["lastErrorCode"] == "BROKER_AUTH"
    row = reload(message)
    assert row.status == "QUEUED"
    assert row.error is not None
    assert (row.wait_reason, row.error["code"], row.attempts) == ("RETRY", "BROKER_AUTH", 1)
    with tenant_scope(committed_world.ipe.pk):
        attempt = OutboundAttempt.objects.get()
        assert attempt.broker_status == 401
        assert "unauthorized" in attempt.broker_answer
