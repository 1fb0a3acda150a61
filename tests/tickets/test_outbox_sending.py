"""Sending through the real broker simulator: each outcome of spec/outbound.md section 8, order, pauses, expiry."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope
from leads.models import ContactIdentity
from tests.conftest import World
from tests.environment import url
from tests.outbound import Broker, broker_running, conversation, due_now, events_of, queue, reload, send
from tests.samples import sample
from tests.whatsapp.wire import Wire
from tickets.models import Message, MessageMedia, OutboundAttempt, Ticket
from tickets.services.outbox import sweep_outbox
from tickets.services.outbox.claiming import _CLAIM, _FIND, _NEXT, _PACED, _STATE
from tickets.services.outbox.holding import _HOLD
from tickets.services.outbox.sending import SETTLE_PAUSES
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

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


def ticket_of(world: World) -> Ticket:
    with tenant_scope(world.ipe.pk):
        return Ticket.objects.get()


def test_accepted_message_leaves_once_and_climbs_to_read(committed_world: World, broker: Broker) -> None:
    broker.behave(autoAck=[2, 3, 4])
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket, "  Olá!\n")
    before = ticket_of(committed_world)
    assert (before.message_count, before.last_position) == (1, 2)  # it counts when it leaves
    assert (reload(message).status, reload(message).wait_reason) == ("QUEUED", None)
    assert send(committed_world) is None
    sent = reload(message)
    assert (sent.status, sent.attempts, sent.sent_at.microsecond) == ("SENT", 1, 0)
    assert sent.external_id == broker.sent()[0]["id"]
    assert broker.texts() == ["  Olá!\n"]
    after = ticket_of(committed_world)
    assert (after.message_count, after.outbound_count, after.unanswered_count, after.waiting_since) == (2, 1, 0, None)
    assert (after.last_message_id, after.last_message_preview) == (message.pk, "Olá!")
    assert attempts(message) == [(1, "SENT", "OK")]
    broker.settle(lambda: reload(message).status == "READ")
    final = reload(message)
    assert final.delivered_at
    assert final.read_at
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 2  # its echoes made no second bubble


def test_each_type_arrives_with_its_fields(committed_world: World, broker: Broker, settings: Any) -> None:
    settings.OUTBOUND_MEDIA_ALLOW_PRIVATE = True
    ticket = conversation(committed_world)
    with Wire(200, "0" * 40, "image/png") as files:
        url = f"{files.url}/a.png"
        image = queue(
            committed_world, ticket, payload={"type": "Image", "mediaUrl": url, "caption": "veja", "fileName": "a.png"}
        )
        voice = queue(
            committed_world, ticket,
            payload={"type": "audio", "media": {"url": url, "mimetype": "audio/ogg", "size": 40}, "voice": True},
        )  # fmt: skip
        poll = queue(
            committed_world, ticket,
            payload={"type": "poll", "poll": {"question": "Qual?", "options": ["a", "b"]}},
        )  # fmt: skip
        send(committed_world)
    assert [reload(message).status for message in (image, voice, poll)] == ["SENT"] * 3
    first, second, third = broker.sent()
    assert (first["type"], first["text"], first["media"]) == (
        "image", "veja", {"mimetype": "image/png", "fileName": "a.png", "size": 40},
    )  # fmt: skip
    assert (second["type"], second["media"]["mimetype"]) == ("audio", "audio/ogg")
    assert (third["type"], third["question"], third["options"]) == ("poll", "Qual?", ["a", "b"])
    with tenant_scope(committed_world.ipe.pk):
        media = MessageMedia.objects.get(message=image)
        assert (media.state, media.media_type, media.source) == ("ready", "image", {"url": url})
        shown = reload(image)
        assert (shown.type, shown.caption, shown.content) == ("IMAGE", "veja", "")
        assert "mediaUrl" not in (shown.payload or {})
        assert MessageMedia.objects.get(message=voice).voice


@pytest.mark.parametrize(
    ("phone", "behaviour", "payload", "code"),
    [
        ("+5511988887777", {"exists": False}, {"text": "Olá"}, "INVALID_TO"),
        ("+5511988887777", {}, {"type": "image", "mediaUrl": "http://127.0.0.1:9/x.png"}, "INVALID_MEDIA"),
    ],
)
def test_refusals_end_at_once_and_release_the_next(
    committed_world: World, broker: Broker, settings: Any, phone: str, behaviour: Any, payload: Any, code: str
) -> None:
    settings.OUTBOUND_MEDIA_ALLOW_PRIVATE = True
    broker.behave(**behaviour)
    ticket = conversation(committed_world, phone=phone)
    message, after = queue(committed_world, ticket, payload=payload), queue(committed_world, ticket, "depois")
    send(committed_world)
    row = reload(message)
    assert row.status == "FAILED"
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"], row.attempts) == (code, False, 1)
    assert attempts(message) == [(1, "FAILED", code)]
    assert reload(after).status in {"SENT", "FAILED"}
    assert ticket_of(committed_world).outbound_count == (reload(after).status == "SENT")


@pytest.mark.parametrize(
    ("behaviour", "code", "left"),
    [
        ({"sendTimeout": True, "sendTimeoutMs": 50}, "BROKER_TIMEOUT", 1),
        ({"dropResponse": True}, "BROKER_ERROR", 1),
        ({"sendError": "boom"}, "BROKER_ERROR", 0),
        ({"socketUnavailable": True}, "BROKER_ERROR", 0),
    ],
)
def test_unknown_outcome_is_never_sent_again_and_an_echo_settles_it(
    committed_world: World, broker: Broker, behaviour: Any, code: str, left: int
) -> None:
    broker.behave(**behaviour)
    ticket = conversation(committed_world)
    message, after = queue(committed_world, ticket, "talvez"), queue(committed_world, ticket, "depois")
    send(committed_world)
    row = reload(message)
    assert row.status == "UNCONFIRMED"
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == (code, False)
    assert attempts(message) == [(1, "UNCONFIRMED", code)]
    assert reload(after).attempts == 1  # it was released
    broker.behave()
    due_now(committed_world)
    sweep_outbox(now=timezone.now())
    send(committed_world)
    if left:
        broker.settle(lambda: reload(message).status in {"SENT", "DELIVERED"} and reload(after).external_id)
        assert [one["text"] for one in broker.sent()] == ["talvez", "depois"]
        assert ticket_of(committed_world).outbound_count == 2
    else:
        assert reload(message).status == "UNCONFIRMED"
        assert broker.sent() == []
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 3


def test_read_timeout_and_html_are_unknown(committed_world: World, settings: Any) -> None:
    ticket = conversation(committed_world)
    settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS = 300
    with broker_running() as broker:
        settings.WHATSAPP_BROKER_URL = broker.url
        broker.behave(sendDelayMs=1000)
        slow = queue(committed_world, ticket, "lenta")
        send(committed_world)
        assert reload(slow).status == "UNCONFIRMED"
        assert (reload(slow).error or {})["code"] == "BROKER_TIMEOUT"
        broker.settle(lambda: reload(slow).status in {"SENT", "DELIVERED"})
        assert broker.texts() == ["lenta"]
    with Wire(200, "<html>dashboard</html>", "text/html") as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        page = queue(committed_world, ticket, "página")
        send(committed_world)
        assert reload(page).status == "UNCONFIRMED"
        assert (reload(page).error or {})["code"] == "BROKER_ERROR"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (201, '{"id": "X1", "status": "PENDING"}', ("SENT", "X1", None)),
        (200, '{"key": {"id": "X1"}}', ("SENT", "X1", None)),
        (200, '{"status": 1}', ("SENT", None, None)),
        (200, '{"id": "X1", "status": 0}', ("FAILED", "X1", "MESSAGE_REJECTED")),
        (200, '{"id": "X1", "error": "boom"}', ("UNCONFIRMED", None, "BROKER_ERROR")),
        (502, "Bad Gateway", ("UNCONFIRMED", None, "BROKER_ERROR")),
        (302, "", ("UNCONFIRMED", None, "BROKER_ERROR")),
        (404, "<html>Cannot POST</html>", ("FAILED", None, "UNSUPPORTED_OPERATION")),
        (422, '{"error": "texto proibido"}', ("FAILED", None, "MESSAGE_REJECTED")),
    ],
)
def test_odd_answers(committed_world: World, settings: Any, status: int, body: str, expected: Any) -> None:
    ticket = conversation(committed_world)
    with Wire(status, body) as wire:
        settings.WHATSAPP_BROKER_URL = wire.url
        message = queue(committed_world, ticket)
        send(committed_world)
    row = reload(message)
    assert (row.status, row.external_id, (row.error or {}).get("code")) == expected


def test_first_message_asks_for_the_address_and_keeps_it(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    with tenant_scope(committed_world.ipe.pk):
        ContactIdentity.objects.filter(kind="wa_address").delete()
    message = queue(committed_world, ticket)
    send(committed_world)
    assert reload(message).status == "SENT"
    with tenant_scope(committed_world.ipe.pk):
        identity = ContactIdentity.objects.get(kind="wa_address")
        assert (identity.contact_id, identity.value) == (ticket.contact_id, broker.sent()[0]["to"])
        ContactIdentity.objects.filter(kind="wa_address").delete()
    broker.behave(exists=False)
    unknown = queue(committed_world, ticket)
    send(committed_world)
    assert (reload(unknown).error or {})["code"] == "INVALID_TO"
    assert len(broker.sent()) == 1


def test_private_address_behind_a_public_name_is_refused_by_the_sender(
    committed_world: World, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket, payload={"type": "image", "mediaUrl": "http://files.example.com/a.png"})
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.0.0.7", 0))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whatsapp.broker.call", lambda *_, **__: pytest.fail("the broker was asked"))
        send(committed_world)
    assert (reload(message).status, (reload(message).error or {})["code"]) == ("FAILED", "INVALID_MEDIA")


def test_a_row_that_cannot_be_sent_fails_alone(committed_world: World, broker: Broker) -> None:
    broken, sound = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    rows = [queue(committed_world, broken), queue(committed_world, sound)]
    with tenant_scope(committed_world.ipe.pk):
        Message.objects.filter(pk=rows[0].pk).update(payload=None)
    send(committed_world)
    assert [reload(row).status for row in rows] == ["UNCONFIRMED", "SENT"]
    assert (reload(rows[0]).error or {})["code"] == "INTERNAL_ERROR"


def test_every_change_is_told(committed_world: World, broker: Broker) -> None:
    ticket = conversation(committed_world)
    broker.behave(offline=True)
    with events_of(committed_world) as events:
        message = queue(committed_world, ticket, "Olá")
        send(committed_world)
        broker.behave()
        due_now(committed_world)
        send(committed_world)
        told = events()
    assert [name for name, _ in told] == [
        "messages.new", "ticket.message",  # accepted
        "message.updated", "message.updated",  # sending, waiting
        "message.updated", "message.updated", "ticket.updated",  # sending, sent
    ]  # fmt: skip
    new, grown, sending, waiting, _, sent, moved = [data for _, data in told]
    assert (new["messageId"], new["message"]["status"], new["preview"]) == (str(message.pk), "QUEUED", "Olá")
    assert (grown["message"]["id"], grown["message"]["status"], grown["timeline"]) == (str(message.pk), "QUEUED", {})
    assert grown["message"]["author"] == {"id": str(committed_world.agent.pk), "name": "Ana"}
    assert (sending["changes"]["status"], sending["version"]) == ("SENDING", 1)
    assert (waiting["changes"]["status"], waiting["changes"]["waitReason"]) == ("QUEUED", "SESSION_OFFLINE")
    assert waiting["changes"]["notBefore"]
    assert waiting["changes"]["error"]["code"] == "INSTANCE_DISCONNECTED"
    assert (sent["changes"]["status"], sent["changes"]["error"], sent["version"]) == ("SENT", None, 4)
    assert sent["changes"]["externalId"] == reload(message).external_id
    assert (moved["timeline"]["outboundCount"], moved["timeline"]["unansweredCount"]) == (1, 0)


def test_claim_reads_what_waits_and_not_what_was_said(committed_world: World) -> None:
    """Its plan must not depend on how many messages there are: a wrong one reads all of them."""
    ticket = conversation(committed_world)
    with service_scope("test"), saving():
        other = WhatsAppSession.objects.create(
            tenant=committed_world.ipe, owner=committed_world.admin, session_name="Outra", connection_id="inst-ipe-02"
        )
    with service_scope("test"), connection.cursor() as cursor:
        for status, many, first in (("READ", 20_000, 10), ("QUEUED", 400, 30_000)):
            cursor.execute(
                """INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, session_id, position, direction,
                       type, content, status, source, sent_at)
                   SELECT gen_random_uuid(), %s, %s, %s, CASE g %% 2 WHEN 0 THEN %s ELSE %s END, g + %s, 'OUTBOUND',
                       'TEXT', 'x', %s, 'AGENT', now() FROM generate_series(1, %s) g""",
                [ticket.tenant_id, ticket.pk, ticket.contact_id, ticket.session_id, other.pk, first, status, many],
            )
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("ANALYZE tickets_message")
    values = {
        "session": ticket.session_id, "tenant": ticket.tenant_id, "now": timezone.now(), "lease": timezone.now(),
        "late": timezone.now(), "most": 4, "ids": [ticket.pk], "reason": "PACING", "untils": [timezone.now()],
        "end": timezone.now(), "turns": 50,
    }  # fmt: skip
    plans = []
    for statement in (_STATE, _FIND, _HOLD, _PACED, _NEXT, _CLAIM):
        with tenant_scope(ticket.tenant_id), connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + statement, values)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))
    assert "message_in_flight" in plans[0]
    assert "message_waiting" in plans[0]
    for plan in plans[1:3]:
        assert "message_due" in plan, plan
        assert "message_live" in plan
    for plan in plans:
        assert "Seq Scan on tickets_message " not in plan, plan


def test_a_lease_outlives_the_longest_try(committed_world: World, broker: Broker) -> None:
    row = queue(committed_world, conversation(committed_world))
    send(committed_world)
    sent = reload(row)
    assert sent.lease_until is not None
    assert sent.claimed_at is not None
    asked, sending, connecting = 15, 60, 5  # the address is asked for first
    assert (sent.lease_until - sent.claimed_at).total_seconds() > asked + sending + 2 * connecting + sum(SETTLE_PAUSES)


def test_what_is_counted(committed_world: World, broker: Broker) -> None:
    samples = {
        "whatsapp_outbound_total": {"origin": "agent", "type": "text", "status": "sent"},
        "whatsapp_outbound_attempts_total": {"code": "OK"},
        "whatsapp_outbound_latency_seconds_count": {"type": "text"},
        "turbozap_messages_sent_total": {"instance_name": "inst-ipe-01", "type": "text"},
        "ticket_first_response_seconds_count": {},
    }
    failed = {"instance_name": "inst-ipe-01", "type": "text", "reason": "INVALID_TO"}

    def figures() -> list[float]:
        values = [sample(name, **labels) for name, labels in samples.items()]
        return [*values, sample("turbozap_messages_failed_total", **failed)]

    ticket = conversation(committed_world)
    before = figures()
    queue(committed_world, ticket)
    send(committed_world)
    assert [now - then for now, then in zip(figures(), before, strict=True)] == [1, 1, 1, 1, 1, 0]
    broker.behave(exists=False)
    queue(committed_world, ticket)
    send(committed_world)
    assert [now - then for now, then in zip(figures(), before, strict=True)] == [1, 1, 1, 1, 1, 1]
