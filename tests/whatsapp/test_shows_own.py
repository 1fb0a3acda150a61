"""Our own messages coming back, and their acks: lines 17 and 18 of spec/inbound.md section 17."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope
from leads.models import Contact, ContactIdentity
from tests.conftest import World
from tests.whatsapp.test_shows_people import deliver, deliver_at_once
from tests.whatsapp.wire_talk import (
    NOW,
    ack,
    canonical,
    raw,
    says,
)
from tickets.models import Message, Ticket
from whatsapp.models import ParkedEffect, WebhookItem
from whatsapp.services.drain import drain_inbox

pytestmark = pytest.mark.django_db(transaction=True)


# --- 17: echoes -------------------------------------------------------------------------------------------------


def ours(world: World, status: str, text: str = "nossa", **more: Any) -> Message:
    """A message of ours to Maria in a state of the outbox."""
    with tenant_scope(world.ipe.pk):
        contact_id = ContactIdentity.objects.get(kind="phone").contact_id
        ticket = Ticket.objects.get(contact_id=contact_id)
        ticket.last_position += 1
        Ticket.objects.filter(pk=ticket.pk).update(last_position=ticket.last_position)
        row: Message = Message.objects.create(
            tenant=world.ipe, ticket=ticket, contact_id=contact_id, session_id=world.line.pk,
            position=ticket.last_position, direction="OUTBOUND", status=status, source="AGENT", author=world.agent,
            content=text, sent_at=datetime.fromtimestamp(NOW + 10, UTC), **more,
        )  # fmt: skip
    return row


def in_flight() -> dict[str, Any]:
    return {"claim_token": "0189c000-0000-7000-8000-000000000000", "lease_until": timezone.now() + timedelta(minutes=1)}


def test_inbound_17_echo_before_the_answer_waits_until_the_send_is_settled(committed_world: World) -> None:
    world = committed_world
    deliver(raw(says("oi")))
    row = ours(world, "SENDING", **in_flight())
    echo = says("nossa", from_me=True, timestamp=NOW + 11)
    deliver(raw(echo), canonical(echo))
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 2
        waiting = WebhookItem.objects.filter(kind="echo").values_list("fate", "reason").distinct()
        assert list(waiting) == [("parked", "awaiting_send")]
        Message.objects.filter(pk=row.pk).update(status="SENT", external_id=echo.id)
        WebhookItem.objects.filter(kind="echo").update(due_at=timezone.now())
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 2
        fates = WebhookItem.objects.filter(kind="echo").values_list("fate", flat=True)
        assert list(fates) == ["duplicate", "duplicate"]


@pytest.mark.parametrize("hours", [0, 5])
@pytest.mark.parametrize("status", ["UNCONFIRMED", "SENT"])
def test_inbound_17_echo_settles_what_has_no_id(
    committed_world: World, status: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also long after: the broker may have been away when it came back."""
    world, real = committed_world, timezone.now
    deliver(raw(says("oi")))
    row = ours(world, status)
    twice = ours(world, status, "nossa")
    echo = says(" nossa ", from_me=True, timestamp=NOW + 12)
    deliver(ack(echo.id, 3))
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(hours=hours))
    deliver_at_once(raw(echo), canonical(echo))
    with tenant_scope(world.ipe.pk):
        row.refresh_from_db()
        twice.refresh_from_db()
        assert (row.external_id, row.status) == (echo.id, "DELIVERED")  # the oldest one, and its parked ack
        assert (twice.external_id, twice.status) == (None, status)
        assert Message.objects.filter(source="PHONE").count() == 0


def test_inbound_17_unconfirmed_is_settled_by_an_ack(committed_world: World) -> None:
    world = committed_world
    deliver(raw(says("oi")))
    row = ours(world, "UNCONFIRMED", external_id="KNOWN")
    deliver(ack("KNOWN", 1))
    with tenant_scope(world.ipe.pk):
        row.refresh_from_db()
        assert row.status == "UNCONFIRMED"
    deliver(ack("KNOWN", 2))
    with tenant_scope(world.ipe.pk):
        row.refresh_from_db()
        assert row.status == "SENT" and Ticket.objects.get().outbound_count == 1


@pytest.mark.parametrize("ended", [False, True])
def test_inbound_17_message_typed_on_the_phone_appears_once(committed_world: World, ended: bool) -> None:
    world = committed_world
    deliver(raw(says("oi", push_name="Maria")))
    if ended:
        with tenant_scope(world.ipe.pk):
            from tickets.services.lifecycle import close_ticket

            close_ticket(
                actor=world.supervisor, ticket_id=Ticket.objects.get().pk, reason_code="SOLVED", now=timezone.now()
            )
    echo = says("do celular", from_me=True, timestamp=NOW + 20)
    deliver(raw(echo), canonical(echo), raw(echo))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get(direction="OUTBOUND")
        assert (row.source, row.status, row.author_id, row.metadata["origin"]) == ("PHONE", "SENT", None, "phone")
        ticket = Ticket.objects.get()
        assert ticket.status == ("RESOLVED" if ended else "OPEN") and ticket.outbound_count == 1
        assert Contact.objects.get().name == "Maria"


def test_inbound_17_first_word_from_the_phone_opens_a_ticket_that_waits_for_nobody(committed_world: World) -> None:
    deliver(raw(says("olá, aqui é da loja", from_me=True)))
    with tenant_scope(committed_world.ipe.pk):
        ticket = Ticket.objects.get()
        assert (ticket.unanswered_count, ticket.waiting_since, ticket.inbound_count) == (0, None, 0)
        assert Contact.objects.get().name == "+5511988887777"


# --- 18: acks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3, 4, 5]))[::7])
@pytest.mark.parametrize("parked", [False, True])
def test_inbound_18_acks_in_every_order_end_in_the_highest(
    committed_world: World, order: tuple[int, ...], parked: bool
) -> None:
    world, echo = committed_world, says("nossa", from_me=True)
    if not parked:
        deliver(raw(echo))
    deliver(*(ack(echo.id, status) for status in order))
    if parked:
        deliver(raw(echo))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.status == "READ" and row.played_at and row.read_at and row.delivered_at
        assert not ParkedEffect.objects.exists()
        assert not WebhookItem.objects.filter(fate__in=["parked", "pending", "failed"]).exists()


def test_inbound_18_error_stands_between_sent_and_delivered(committed_world: World) -> None:
    world, echo = committed_world, says("nossa", from_me=True)
    deliver(raw(echo), ack(echo.id, 2), ack(echo.id, 0, messageStubParameters=["463"]))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.status == "FAILED" and row.error is not None and row.error["code"] == "463"
        assert Ticket.objects.get().outbound_count == 0
    deliver(ack(echo.id, 2))
    with tenant_scope(world.ipe.pk):
        assert Message.objects.get().status == "FAILED"
    deliver(ack(echo.id, 3))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert (row.status, row.error, row.failed_at) == ("DELIVERED", None, None)
        assert Ticket.objects.get().outbound_count == 1


def test_inbound_18_delivered_and_read_in_one_second_give_read(committed_world: World) -> None:
    world, echo = committed_world, says("nossa", from_me=True)
    deliver(raw(echo))
    deliver_at_once(*(ack(echo.id, status, messageTimestamp=NOW + 5) for status in (3, 4)))
    with tenant_scope(world.ipe.pk):
        row = Message.objects.get()
        assert row.status == "READ" and row.read_at == row.delivered_at == datetime.fromtimestamp(NOW + 5, UTC)


def test_inbound_18_acks_of_other_people_and_unknown_words_change_nothing(committed_world: World) -> None:
    echo = says("nossa", from_me=True)
    deliver(raw(echo), ack(echo.id, 9))
    foreign = ack(echo.id, 4)
    foreign["payload"]["raw"]["updates"][0]["key"]["fromMe"] = False
    deliver(foreign, ack(echo.id, 1), ack(echo.id, 2))
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.get().status == "SENT"
        reasons = WebhookItem.objects.filter(fate="ignored").order_by("id").values_list("reason", flat=True)
        assert list(reasons) == ["ack_unknown_status", "ack_not_outgoing", "ack_regression", "ack_noop"]
