"""`prove_no_loss`: silent when nothing is lost, and naming exactly what is (spec/inbound.md section 14)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from leadengine.accounts.scopes import service_scope
from leadengine.ids import uuid7
from tests.conftest import World
from tests.whatsapp.inbound import corpus_lines, receive, store, text_event
from tickets.models import Message, Ticket
from whatsapp.models import WebhookEvent, WebhookItem, WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)


def prove(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = 0
    try:
        call_command("prove_no_loss", "--json", *arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, json.loads(capsys.readouterr().out)


def found(answer: tuple[int, Any]) -> set[tuple[str, str]]:
    code, told = answer
    assert (code, told["ok"]) == ((1, False) if told["differences"] else (0, True))
    return {(one["check"], one["id"]) for one in told["differences"]}


def test_inbound_01_the_corpus_in_any_order_and_twice_is_proved(
    committed_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(broker_instance_id="loja1")
    bodies = [line["body"].encode() for line in corpus_lines("webhooks.jsonl")]
    receive(*bodies, *reversed(bodies))
    receive(
        [
            text_event("um", instance="inst-ipe-01"),
            text_event("deles", instance="cedro-01"),
            text_event(instance="nada"),
            7,
        ]
    )
    code, told = prove(capsys)
    assert (code, told["differences"]) == (0, [])
    assert told["counts"]["events.processed"] == 59
    assert told["counts"]["events.orphan"] == 1
    assert told["counts"]["messages.inbound"] == 12


def test_each_damage_is_found_and_named(committed_world: World, capsys: pytest.CaptureFixture[str]) -> None:
    receive(*(text_event(f"m{n}", external_id=f"M{n}") for n in range(6)))
    receive([text_event("a", external_id="A"), text_event("b", external_id="B")])
    assert not found(prove(capsys))
    with service_scope("test"):
        items = {item.external_id: item for item in WebhookItem.objects.all()}
        WebhookItem.objects.filter(pk=items["M0"].pk).delete()
        message = Message.objects.get(external_id="M0")
        event = items["M0"].event_id
    assert found(prove(capsys)) == {("items", str(event)), ("ledger", str(message.pk))}
    with service_scope("test"):
        WebhookItem.objects.create(
            tenant=committed_world.ipe, event_id=event, index=0, kind="message", external_id="M0", fate="stored",
            message_id=uuid7(),
        )  # fmt: skip
    assert found(prove(capsys)) == {("messages", str(event)), ("ledger", str(message.pk))}
    with service_scope("test"):
        WebhookItem.objects.filter(event_id=event).update(message_id=message.pk)
        WebhookItem.objects.filter(pk=items["M1"].pk).update(message_id=message.pk)
        other = Message.objects.get(external_id="M1")
    assert found(prove(capsys)) == {("doubled", str(message.pk)), ("ledger", str(other.pk))}
    with service_scope("test"):
        WebhookItem.objects.filter(pk=items["M1"].pk).update(message_id=other.pk)
        Ticket.objects.update(last_position=9)
        ticket = Ticket.objects.get()
    assert found(prove(capsys)) == {("positions", str(ticket.pk))}
    with service_scope("test"):
        Ticket.objects.update(last_position=8)
        WebhookItem.objects.filter(pk=items["B"].pk).delete()
        WebhookEvent.objects.filter(pk=items["B"].event_id).delete()
        lost = Message.objects.get(external_id="B")
    assert found(prove(capsys)) == {("entries", str(items["A"].event_id)), ("ledger", str(lost.pk))}


def test_what_waits_too_long_is_found_and_what_waits_its_time_is_not(
    committed_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    hollow = text_event("x", external_id="HOLLOW")
    hollow["payload"]["message"].update(text=None, type=None)
    receive(hollow)
    store(text_event("pendente"))
    assert not found(prove(capsys))
    late = datetime.now(UTC) - timedelta(minutes=3)
    with service_scope("test"):
        parked = WebhookItem.objects.get()
        WebhookItem.objects.update(due_at=None, expires_at=late)
        pending = WebhookEvent.objects.get(status="PENDING")
        WebhookEvent.objects.filter(pk=pending.pk).update(due_at=late)
    assert found(prove(capsys)) == {("pending", str(parked.event_id)), ("pending", str(pending.pk))}


def test_the_window_and_bad_use(committed_world: World, capsys: pytest.CaptureFixture[str]) -> None:
    receive(text_event("agora"))
    with service_scope("test"):
        WebhookItem.objects.update(message_id=uuid7())
    assert found(prove(capsys, "--since", "1h"))
    assert not found(prove(capsys, "--since", "2d", "--until", "1d"))
    with pytest.raises(CommandError) as refusal:
        call_command("prove_no_loss", "--since", "long ago")
    assert refusal.value.returncode == 2
    call_command("prove_no_loss", "--since", "2d", "--until", "1d", "--wait", "0.1")
    assert "Nothing is lost" in capsys.readouterr().out
