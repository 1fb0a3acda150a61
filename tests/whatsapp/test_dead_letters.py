"""The dead-letter desk: what lies there, why, and what a person may do about it (spec/inbound.md sections 9 and 14)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from django.test import Client

from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from tests.admin_site.conftest import address
from tests.api import by_cookie
from tests.conftest import World
from tests.environment import url
from tests.whatsapp.door import post
from tests.whatsapp.inbound import receive, store, text_event
from tickets.models import Message
from whatsapp.models import DeadLetter, WebhookEvent, WebhookItem
from whatsapp.normalizers.contract import find_breaches
from whatsapp.services.drain import drain_inbox
from whatsapp.services.reprocessing_desk import body_text

pytestmark = pytest.mark.django_db(transaction=True)
LIST = address(DeadLetter)
SENT = {"_form_submitted": "1"}
ALL = {"_selected_action": "all", "select_across": "1", "index": "0"}
PHONE = "+5511988887777"


@pytest.fixture
def poison(transactional_db: None) -> Iterator[None]:
    """PostgreSQL itself refuses messages with this word: what a poison event is in life."""
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute(
            """CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.content LIKE '%veneno%' THEN RAISE EXCEPTION 'poison of +5511988887777'; END IF;
               RETURN NEW; END $$;
               CREATE TRIGGER refuse_poison BEFORE INSERT ON tickets_message
               FOR EACH ROW EXECUTE FUNCTION refuse_poison()"""
        )
        yield
        owner.execute("DROP TRIGGER refuse_poison ON tickets_message; DROP FUNCTION refuse_poison()")


def fail(*texts: str) -> list[WebhookEvent]:
    """Let events go through all their retries; the clock is moved by making them due."""
    receive(*(text_event(text) for text in texts))
    for _ in range(5):
        with service_scope("test"):
            WebhookItem.objects.filter(fate="pending").update(due_at=datetime.now(UTC))
        drain_inbox()
    with service_scope("test"):
        return list(WebhookEvent.objects.filter(status="FAILED").order_by("pk"))


def button(client: Client, event: Any, name: str, **form: Any) -> Any:
    """Press a button on an event's page and send its dialog."""
    return client.post(f"{LIST}{event.pk}/{name}/", {**SENT, **form})


def bulk(client: Client, action: str, query: str = "", **form: Any) -> Any:
    """An action over all events of the list."""
    return client.post(LIST + query, {**ALL, "action": action, **form}, follow=True)


def audits(action: str) -> list[AuditLog]:
    with service_scope("test"):
        return list(AuditLog.objects.filter(action=action).order_by("pk"))


def page(user: User, event: Any) -> str:
    answer = by_cookie(user).get(address(DeadLetter, event))
    assert answer.status_code == 200
    return str(answer.content.decode())


# --- A poison event ----------------------------------------------------------------------------------------------


def test_inbound_20_poison_is_retried_five_times_then_corrected_at_the_desk(
    committed_world: World, poison: None
) -> None:
    world = committed_world
    store(*(text_event("veneno" if n == 3 else f"boa {n}", external_id=f"P{n}") for n in range(8)))
    began = datetime.now(UTC)
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 7, "the others were not delayed"
    waits = []
    for _ in range(5):
        with service_scope("test"):
            item = WebhookItem.objects.get(fate="pending")
            assert item.due_at is not None
            waits.append((item.due_at - max(began, item.created_at)).total_seconds())
            WebhookItem.objects.filter(pk=item.pk).update(due_at=datetime.now(UTC))
        began = datetime.now(UTC)
        drain_inbox()
    assert [round(wait, -1) if wait > 10 else round(wait) for wait in waits] == [5, 30, 120, 600, 3600]
    with tenant_scope(world.ipe.pk):
        event = WebhookEvent.objects.get(status="FAILED")
        item = WebhookItem.objects.get(event=event)
        assert (item.fate, item.attempts, event.reason) == ("failed", 6, "processing_error")
        assert item.error.startswith("ProgrammingError: poison of ") and "Traceback" in item.error
    corrected = body_text(event.body).replace("veneno", "remédio")
    assert button(by_cookie(world.admin), event, "correct", text=corrected).status_code == 302
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        assert Message.objects.get(external_id="P3").content == "remédio"
        event.refresh_from_db()
        assert (event.status, event.error) == ("PROCESSED", "")
        assert "veneno" in body_text(event.original_body)
        assert WebhookItem.objects.get(event=event).fate == "stored"
    [line] = audits("webhook_event.corrected")
    assert (line.actor_id, line.object_id) == (world.admin.pk, str(event.pk))
    before, after = line.changes["body_sha256"]
    assert before != after


def test_an_event_that_cannot_even_be_read_holds_up_nobody(committed_world: World) -> None:
    store(text_event("antes"), text_event("quebrada", external_id="B"), text_event("depois"))
    with service_scope("test"):
        broken = WebhookEvent.objects.order_by("pk")[1]
        WebhookEvent.objects.filter(pk=broken.pk).update(body=b"no zlib")
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert set(Message.objects.values_list("content", flat=True)) == {"antes", "depois"}
    for attempt in range(1, 6):
        with service_scope("test"):
            broken.refresh_from_db()
            assert (broken.status, broken.attempts, broken.reason) == ("PENDING", attempt, "processing_error")
            WebhookEvent.objects.filter(pk=broken.pk).update(due_at=datetime.now(UTC))
        drain_inbox()
    with service_scope("test"):
        broken.refresh_from_db()
        assert broken.status == "FAILED" and "zlib.error" in broken.error


# --- The desk ----------------------------------------------------------------------------------------------------


def test_the_desk_shows_cause_traceback_and_payload_and_masks_phones(committed_world: World, poison: None) -> None:
    world = committed_world
    event = fail("veneno 1")[0]
    seen = page(world.admin, event)
    assert "Traceback" in seen and "RaiseException" in seen and PHONE in seen
    masked = page(world.supervisor, event)
    assert "Traceback" in masked and PHONE not in masked and "5511988887777" not in masked
    assert by_cookie(world.outsider).get(address(DeadLetter, event)).status_code == 404
    assert "poison of +••••7777" in by_cookie(world.supervisor).get(LIST).content.decode()


def test_causes_are_grouped_whatever_numbers_stand_in_them(committed_world: World, poison: None) -> None:
    fail("veneno 1", "veneno 22", "veneno 333")
    receive(text_event("x", instance="nada-1"), text_event("y", instance="nada-1"))
    assert post(b"{").status == 400
    client = by_cookie(committed_world.superuser)
    causes = client.get(LIST).context["causes"]
    assert sorted((cause.reason, cause.n) for cause in causes) == [
        ("invalid_json", 1), ("processing_error", 3), ("unknown_instance", 2),
    ]  # fmt: skip
    assert {cause.detail for cause in causes if cause.is_orphan} == {"nada-1"}
    for cause in causes:
        shown = client.get(LIST, {"cause": cause.key}).context["cl"].result_list
        assert len(shown) == cause.n, cause
    ours = by_cookie(committed_world.admin).get(LIST).context["causes"]
    assert [cause.reason for cause in ours] == ["processing_error"]
    for state, number in (("failed", 3), ("orphan", 2), ("rejected", 1), ("overdue", 0), ("unread", 0)):
        assert len(client.get(LIST, {"state": state}).context["cl"].result_list) == number, state


def test_overdue_items_are_there_and_due_ones_are_not(committed_world: World) -> None:
    hollow = text_event("x", external_id="HOLLOW")
    hollow["payload"]["message"].update(text=None, type=None)
    receive(hollow, text_event("boa"))
    client = by_cookie(committed_world.supervisor)
    assert not client.get(LIST).context["cl"].result_list
    late = datetime.now(UTC) - timedelta(minutes=11)
    with service_scope("test"):
        WebhookItem.objects.filter(fate="parked").update(due_at=None, expires_at=late)
    for query in ("", "?state=overdue"):
        [event] = client.get(LIST + query).context["cl"].result_list
        assert event.cause_reason == "awaiting_twin"


def test_a_broken_contract_names_the_field_and_what_came(committed_world: World) -> None:
    nobody = text_event("oi")
    nobody["payload"]["contact"].update(remoteJid=None, phone=17)
    nobody["payload"]["message"]["chatId"] = None
    receive(nobody)
    client = by_cookie(committed_world.admin)
    assert not client.get(LIST).context["cl"].result_list
    [event] = client.get(f"{LIST}?state=unread").context["cl"].result_list
    seen = page(committed_world.admin, event)
    assert "payload.contact.phone" in seen and "number 17" in seen


def test_breaches_of_every_kind_of_event() -> None:
    def fields(entry: Any) -> list[tuple[str, str]]:
        return [(one.field, one.came) for one in find_breaches(entry, default_instance_id=None)]

    assert fields([]) == [("(event)", "list of 0")]
    assert fields({}) == [("event", "missing"), ("instanceId", "missing")]
    assert fields({"event": 7, "instanceId": "i"}) == [("event", "number 7")]
    assert fields({"event": "NOVIDADE", "instanceId": "i"}) == [("event", "text 'NOVIDADE'")]
    assert fields({"event": "MESSAGE_INBOUND", "instanceId": "i", "payload": {"message": "oi"}}) == [
        ("payload.message", "text 'oi'")
    ]
    assert fields({"event": "MESSAGE_INBOUND", "instanceId": {}, "payload": {"message": {}}}) == [
        ("instanceId", "object {}"), ("payload.message.id", "missing"), ("payload.contact.phone", "missing"),
    ]  # fmt: skip
    assert fields({"event": "WHATSAPP_MESSAGES_UPSERT", "instanceId": "i", "payload": {"raw": {"messages": True}}}) == [
        ("payload.raw.messages", "true")
    ]
    assert fields({"event": "POLL_CHOICE", "instanceId": "i", "payload": {"pollId": "P"}}) == [
        ("payload.voterJid", "missing")
    ]
    assert fields(text_event()) == []


# --- What may be done --------------------------------------------------------------------------------------------


def test_who_may_do_what(committed_world: World, poison: None) -> None:
    world = committed_world
    event = fail("veneno")[0]
    for name in ("requeue", "correct", "claim", "discard"):
        assert button(by_cookie(world.supervisor), event, name, reason="x", text="{}").status_code == 403, name
        assert button(by_cookie(world.outsider), event, name, reason="x", text="{}").status_code == 404, name
    assert button(by_cookie(world.admin), event, "claim", session=str(world.line.pk)).status_code == 403
    for action in ("requeue_selected", "discard_selected", "claim_selected"):
        bulk(by_cookie(world.supervisor), action, reason="x", confirmed="1")
        bulk(by_cookie(world.outsider), action, reason="x", confirmed="1", session=str(world.foreign_line.pk))
    with service_scope("test"):
        event.refresh_from_db()
    assert event.status == "FAILED"
    shown = page(world.supervisor, event)
    assert f"{event.pk}/discard/" not in shown and f"{event.pk}/discard/" in page(world.admin, event)


def test_all_of_a_cause_run_again_in_one_go(committed_world: World) -> None:
    world = committed_world
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("ALTER TABLE tickets_message ADD CONSTRAINT away CHECK (content NOT LIKE '%veneno%')")
        try:
            fail("veneno 1", "veneno 2", "veneno 3")
        finally:
            owner.execute("ALTER TABLE tickets_message DROP CONSTRAINT away")
    client = by_cookie(world.admin)
    [cause] = client.get(LIST).context["causes"]
    assert bulk(client, "requeue_selected", f"?{urlencode({'cause': cause.key})}").status_code == 200
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 3
        assert not DeadLetter.objects.exclude(status="PROCESSED").exists()
    assert len(audits("webhook_event.requeued")) == 3
    assert not client.get(LIST).context["cl"].result_list


def test_events_are_discarded_with_a_reason_that_stays(committed_world: World, poison: None) -> None:
    world = committed_world
    fail("veneno 1", "veneno 2")
    client = by_cookie(world.admin)
    asked = bulk(client, "discard_selected")
    assert asked.status_code == 200 and b'name="reason"' in asked.content
    with tenant_scope(world.ipe.pk):
        assert DeadLetter.objects.filter(status="FAILED").count() == 2, "nothing before the reason"
    bulk(client, "discard_selected", confirmed="1", reason="Teste do fornecedor")
    with tenant_scope(world.ipe.pk):
        assert set(WebhookEvent.objects.values_list("status", "note")) == {("PROCESSED", "Teste do fornecedor")}
        assert set(WebhookItem.objects.values_list("fate", flat=True)) == {"discarded"}
        assert Message.objects.count() == 0
    lines = audits("webhook_event.discarded")
    assert [line.changes["note"] for line in lines] == [["", "Teste do fornecedor"]] * 2
    assert not client.get(LIST).context["cl"].result_list


def test_orphans_are_claimed_in_bulk_by_a_superuser(committed_world: World) -> None:
    world = committed_world
    store(*(text_event(f"perdida {n}", instance="nada-1") for n in range(3)))
    client = by_cookie(world.superuser)
    assert b'name="session"' in bulk(client, "claim_selected", "?state=orphan").content
    bulk(client, "claim_selected", "?state=orphan", confirmed="1", session=str(world.foreign_line.pk))
    drain_inbox()
    with tenant_scope(world.cedro.pk):
        assert Message.objects.count() == 3
        assert AuditLog.objects.filter(action="webhook_event.claimed").count() == 3
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 0


def test_a_rejected_body_is_corrected_into_a_message(committed_world: World) -> None:
    world = committed_world
    raw = json.dumps(text_event("quase JSON", external_id="R1")).encode()
    assert post(raw[:-1]).status == 400
    client = by_cookie(world.superuser)
    [event] = client.get(f"{LIST}?state=rejected").context["cl"].result_list
    refused = button(client, event, "requeue")
    assert refused.status_code == 200 and b"le-refusal" in refused.content
    for bad in ("{", "[]", "[{}, {}]", '{"event": "MESSAGE_INBOUND"}'):
        assert button(client, event, "correct", text=bad).status_code == 200, bad
    with service_scope("test"):
        event.refresh_from_db()
        assert event.status == "REJECTED" and event.original_body is None
    assert button(client, event, "correct", text=raw.decode()).status_code == 302
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        assert Message.objects.get().external_id == "R1"
        event = WebhookEvent.objects.get()
        assert zlib.decompress(bytes(event.original_body or b"")) == raw[:-1]


def test_a_correction_never_moves_an_event_to_another_tenant(committed_world: World, poison: None) -> None:
    world = committed_world
    event = fail("veneno")[0]
    stolen = body_text(event.body).replace("ipe-01", "cedro-01").replace("veneno", "doce")
    assert button(by_cookie(world.admin), event, "correct", text=stolen).status_code == 302
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        assert Message.objects.get().content == "doce"
    with tenant_scope(world.cedro.pk):
        assert Message.objects.count() == 0 and WebhookEvent.objects.count() == 0
