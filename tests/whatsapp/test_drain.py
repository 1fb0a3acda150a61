"""The drain against the real PostgreSQL: totals, order, races, poison."""

from __future__ import annotations

import random
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from leadengine.accounts.scopes import service_scope, tenant_scope
from leads.models import Contact, ContactIdentity, Lead, LeadActivity
from tests.conftest import World
from tests.whatsapp.inbound import corpus_lines, receive, store, text_event
from tickets.models import CloseReason, Message, Queue, Ticket, TicketEvent
from whatsapp.models import WebhookEvent, WebhookItem, WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.batch import process_batch
from whatsapp.services.drain import drain_inbox
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)


def corpus() -> list[bytes]:
    return [line["body"].encode() for line in corpus_lines("webhooks.jsonl")]


def use_loja1(world: World) -> None:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(broker_instance_id="loja1")


def picture(world: World) -> dict[str, Any]:
    """All that the corpus may leave behind, in a form that does not depend on ids or order of arrival."""
    with tenant_scope(world.ipe.pk):
        return {
            "contacts": sorted(Contact.objects.values_list("name", "kind")),
            "identities": sorted(ContactIdentity.objects.values_list("kind", "value")),
            "tickets": Ticket.objects.count(),
            "leads": Lead.objects.count(),
            "messages": sorted(
                Message.objects.values_list("external_id", "direction", "type", "content", "caption", "status")
            ),
            "revoked": list(Message.objects.filter(revoked_at__isnull=False).values_list("external_id", flat=True)),
            "reactions": list(Message.objects.filter(reactions__emoji="👍").values_list("external_id", flat=True)),
            "quotes": list(Message.objects.exclude(reply_to=None).values_list("external_id", "reply_to__external_id")),
            "atendimentos": sorted(WhatsAppAtendimento.objects.values_list("chat_id", "status")),
        }


def test_inbound_01_corpus_leaves_the_totals_of_the_broker_page(committed_world: World) -> None:
    use_loja1(committed_world)
    receive(*corpus())
    seen = picture(committed_world)
    assert (len(seen["contacts"]), seen["tickets"], seen["leads"], len(seen["messages"])) == (3, 3, 2, 12)
    directions = Counter(row[1] for row in seen["messages"])
    assert directions == {"INBOUND": 10, "OUTBOUND": 2}
    texts = {row[0]: row[3] for row in seen["messages"]}
    assert texts["EPH1"] == "temporaria"
    assert seen["revoked"] == ["T1"] and seen["reactions"] == ["T1"] and seen["quotes"] == [("QUO1", "T1")]
    assert {row[0]: row[5] for row in seen["messages"]}["3EB0DD775B77B7D2FCDDFC"] == "SENT"
    with tenant_scope(committed_world.ipe.pk):
        assert not WebhookItem.objects.filter(external_id="STATUS1").exclude(fate="ignored").exists()
        assert not WebhookItem.objects.filter(fate__in=["pending", "failed"]).exists()
        assert WebhookEvent.objects.exclude(status="PROCESSED").count() == 0


@pytest.mark.parametrize("seed", range(4))
def test_inbound_01_corpus_twice_and_shuffled_leaves_the_same(committed_world: World, seed: int) -> None:
    use_loja1(committed_world)
    bodies = corpus()
    receive(*bodies)
    expected = picture(committed_world)
    _wipe()
    again = bodies * 2
    random.Random(seed).shuffle(again)
    for start in range(0, len(again), 5):
        receive(*again[start : start + 5])
    assert picture(committed_world) == expected
    _assert_gapless(committed_world)


def test_inbound_01_corpus_by_four_clients_and_drainers_at_once(committed_world: World) -> None:
    use_loja1(committed_world)
    receive(*corpus())
    expected = picture(committed_world)
    _wipe()

    def client() -> None:
        try:
            for body in corpus():
                receive(body)
        finally:
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain_inbox()
    assert picture(committed_world) == expected
    _assert_gapless(committed_world)


def test_inbound_07_hundred_first_messages_make_one_contact_ticket_and_lead(committed_world: World) -> None:
    store(*(text_event(f"mensagem {n}") for n in range(100)))
    threads = [threading.Thread(target=_drain_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert (Contact.objects.count(), Ticket.objects.count(), Lead.objects.count()) == (1, 1, 1)
        positions = list(Message.objects.order_by("position").values_list("position", flat=True))
        assert positions == list(range(1, 101))
        assert LeadActivity.objects.filter(kind="WHATSAPP_REPLIED").count() == 100
        ticket = Ticket.objects.get()
        assert (ticket.message_count, ticket.inbound_count, ticket.unanswered_count) == (100, 100, 100)


def test_late_message_takes_its_place_and_moves_nothing_back(committed_world: World) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    receive(text_event("nova", sent_at=now))
    receive(text_event("velha", sent_at=now - timedelta(hours=1)))
    with tenant_scope(committed_world.ipe.pk):
        ticket = Ticket.objects.get()
        assert (ticket.last_message_preview, ticket.last_message_at, ticket.waiting_since) == ("nova", now, now)
        assert ticket.first_inbound_at == now - timedelta(hours=1)
        late = Message.objects.get(content="velha")
        assert late.metadata["lateBySeconds"] == 3600
        shown = list(Message.objects.order_by("sent_at", "position").values_list("content", flat=True))
        assert shown == ["velha", "nova"]


def test_poison_waits_alone_and_ends_at_the_desk(committed_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = process_batch

    def stumble(*, tenant_id: Any, claims: Any, now: Any) -> None:
        if any("veneno" in (work.item.content.text or "") for claim in claims for work in claim.works):
            raise ValueError("poison")
        real(tenant_id=tenant_id, claims=claims, now=now)

    monkeypatch.setattr("whatsapp.services.drain.process_batch", stumble)
    receive(*(text_event("veneno" if n == 7 else f"boa {n}") for n in range(20)))
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 19
        item = WebhookItem.objects.get(fate="pending")
        assert item.attempts == 1 and "poison" in item.error and item.due_at is not None
        assert item.due_at > datetime.now(UTC)
    for _ in range(5):
        with service_scope("test"):
            WebhookItem.objects.filter(fate="pending").update(due_at=datetime.now(UTC))
        drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        item.refresh_from_db()
        assert (item.fate, item.reason, item.event.status) == ("failed", "processing_error", "FAILED")
        assert Message.objects.count() == 19


def test_without_a_queue_messages_wait_and_come_in_order(committed_world: World) -> None:
    with service_scope("test"):
        Queue.objects.filter(tenant=committed_world.ipe).update(is_active=False)
    receive(text_event("um"), text_event("dois"))
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 0
        assert set(WebhookItem.objects.values_list("fate", "reason")) == {("pending", "queue_missing")}
        Queue.objects.update(is_active=True)
        WebhookItem.objects.update(due_at=datetime.now(UTC))
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert list(Message.objects.order_by("position").values_list("content", flat=True)) == ["um", "dois"]


def test_reopen_window_decides_between_the_old_ticket_and_a_new_one(committed_world: World) -> None:
    receive(text_event("primeira"))
    _close_minutes_ago(committed_world, 119)
    receive(text_event("atrasada", sent_at=datetime.now(UTC) - timedelta(minutes=120)))
    with tenant_scope(committed_world.ipe.pk):
        assert Ticket.objects.get().status == "RESOLVED"
    receive(text_event("dentro"))
    with tenant_scope(committed_world.ipe.pk):
        ticket = Ticket.objects.get()
        assert (ticket.status, ticket.reopened_count, ticket.message_count) == ("OPEN", 1, 3)
        assert TicketEvent.objects.filter(kind="REOPENED").count() == 1
    _close_minutes_ago(committed_world, 121)
    receive(text_event("fora"))
    with tenant_scope(committed_world.ipe.pk):
        assert sorted(Ticket.objects.values_list("number", "status")) == [(1, "RESOLVED"), (2, "OPEN")]


def _close_minutes_ago(world: World, minutes: int) -> None:
    with tenant_scope(world.ipe.pk):
        Ticket.objects.update(
            status="RESOLVED",
            closed_at=datetime.now(UTC) - timedelta(minutes=minutes),
            close_reason=CloseReason.objects.get(code="SOLVED"),
        )


def test_hollow_event_waits_for_its_twin_then_is_stored_as_unknown(committed_world: World) -> None:
    hollow = text_event("x", external_id="HOLLOW")
    hollow["payload"]["message"].update(text=None, type=None)
    receive(hollow)
    with tenant_scope(committed_world.ipe.pk):
        item = WebhookItem.objects.get()
        assert (item.fate, item.reason) == ("parked", "awaiting_twin")
        past = datetime.now(UTC) - timedelta(seconds=1)
        WebhookItem.objects.update(due_at=past, expires_at=past)
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.get().type == "UNKNOWN"


def test_two_tenants_in_one_body_see_only_their_own(committed_world: World) -> None:
    receive([text_event("ipe"), text_event("cedro", instance="cedro-01"), text_event("ninguem", instance="nada")])
    for tenant, expected in ((committed_world.ipe, "ipe"), (committed_world.cedro, "cedro")):
        with tenant_scope(tenant.pk):
            assert list(Message.objects.values_list("content", flat=True)) == [expected]
            assert WebhookEvent.objects.count() == 1
    with service_scope("test"):
        assert WebhookEvent.objects.get(status="ORPHAN").instance_id == "nada"


def _drain_and_close() -> None:
    try:
        drain_inbox()
    finally:
        connection.close()


def _wipe() -> None:
    """Forget messages and events of the test's tenants, keep their people, queues and lines."""
    import psycopg

    from tests.environment import url

    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("TRUNCATE leads_contact, tickets_ticket, whatsapp_webhookevent, tickets_ticketcounter CASCADE")
        owner.execute("TRUNCATE whatsapp_parkedeffect")


def _assert_gapless(world: World) -> None:
    with tenant_scope(world.ipe.pk):
        for ticket in Ticket.objects.all():
            positions = list(ticket.messages.order_by("position").values_list("position", flat=True))
            assert positions == list(range(1, ticket.last_position + 1))
