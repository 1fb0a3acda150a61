"""Stored events run again: by REST and by command, for admins and superusers, and doubling nothing."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from leadengine.accounts.models import AuditLog
from leadengine.accounts.scopes import service_scope, tenant_scope
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.whatsapp.inbound import corpus_lines, receive, store, text_event
from tickets.models import Message, Queue, Ticket
from whatsapp.models import WebhookEvent, WebhookItem, WhatsAppSession
from whatsapp.services.drain import drain_inbox
from whatsapp.services.persistence import saving
from whatsapp.services.reprocessing import requeue_events

pytestmark = pytest.mark.django_db(transaction=True)
EVENTS = "/api/integrations/whatsapp/webhook-events"


def events(**filters: Any) -> list[WebhookEvent]:
    with service_scope("test"):
        return list(WebhookEvent.objects.filter(**filters).order_by("pk"))


def ledger() -> list[tuple[Any, ...]]:
    """Every item as it stands."""
    with service_scope("test"):
        rows = WebhookItem.objects.order_by("event_id", "index")
        return list(rows.values_list("event_id", "index", "kind", "external_id", "fate", "reason", "message_id"))


def rows_of(world: World) -> dict[str, Any]:
    """What people see of the tenant, whatever happened in between."""
    with tenant_scope(world.ipe.pk):
        messages = Message.objects.order_by("pk").values_list(
            "pk", "position", "type", "content", "caption", "status", "revoked_at", "edited_at", "sent_at"
        )
        tickets = Ticket.objects.order_by("pk").values_list(
            "pk", "status", "message_count", "inbound_count", "unanswered_count", "last_message_at", "last_position"
        )
        return {"messages": list(messages), "tickets": list(tickets)}


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """The command with --json: its exit code and what it printed."""
    code = 0
    try:
        call_command("reprocess_webhook_events", *arguments, "--json")
    except SystemExit as end:
        code = int(end.code or 0)
    return code, json.loads(capsys.readouterr().out)


def corpus(world: World) -> None:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(broker_instance_id="loja1")
    receive(*(line["body"].encode() for line in corpus_lines("webhooks.jsonl")))


# --- Again, and nothing twice ------------------------------------------------------------------------------------


def test_every_event_of_the_corpus_again_changes_nothing(
    committed_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus(committed_world)
    seen, fates = rows_of(committed_world), ledger()
    code, told = run(capsys=capsys)
    assert (code, told["events"], told["notRun"]) == (0, 28, {})
    assert told["fates"] == dict(Counter(row[4] for row in fates))
    assert rows_of(committed_world) == seen
    assert [row[:6] for row in ledger()] == [row[:6] for row in fates]
    assert {event.status for event in events()} == {"PROCESSED"}


def test_an_event_that_came_three_times_runs_again_in_any_order(committed_world: World) -> None:
    for _ in range(3):
        receive(text_event("uma vez", external_id="X1"))
    before = ledger()
    assert [row[4] for row in before] == ["stored", "duplicate", "duplicate"]
    with service_scope("test"):
        requeue_events(ids=[row[0] for row in reversed(before)], actor=None, now=timezone.now())
    drain_inbox()
    assert ledger() == before
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 1


def test_an_item_that_failed_gets_its_message_and_keeps_its_line(committed_world: World) -> None:
    receive(text_event("boa", external_id="OK"))
    store(text_event("caiu", external_id="LOST"))
    with service_scope("test"):
        event = WebhookEvent.objects.get(status="PENDING")
        WebhookEvent.objects.filter(pk=event.pk).update(status="FAILED", reason="processing_error", error="boom")
        WebhookItem.objects.create(
            tenant=committed_world.ipe, event=event, index=0, kind="message", external_id="LOST", fate="failed",
            reason="processing_error", attempts=6, error="boom",
        )  # fmt: skip
    status, body = send(by_cookie(committed_world.admin), "post", f"{EVENTS}/{event.pk}/reprocess")
    assert (status, body["data"]["status"], body["data"]["error"]) == (202, "PENDING", "")
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        item = WebhookItem.objects.get(external_id="LOST")
        assert (item.fate, item.error, item.attempts) == ("stored", "", 0)
        assert item.message_id == Message.objects.get(external_id="LOST").pk
        assert WebhookEvent.objects.get(pk=event.pk).status == "PROCESSED"
        [line] = AuditLog.objects.filter(action="webhook_event.requeued")
        assert (line.actor_id, line.object_id) == (committed_world.admin.pk, str(event.pk))


def test_an_event_may_be_asked_for_twice_and_while_it_waits(committed_world: World) -> None:
    store(text_event("Oi"))
    [event] = events()
    for client in (by_key(committed_world.admin), by_cookie(committed_world.superuser)):
        assert send(client, "post", f"{EVENTS}/{event.pk}/reprocess")[0] == 202
    drain_inbox()
    assert send(by_cookie(committed_world.admin), "post", f"{EVENTS}/{event.pk}/reprocess")[0] == 202
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 1


def test_who_may_run_an_event_again(committed_world: World) -> None:
    world = committed_world
    receive(text_event("Oi"))
    [event] = events()
    url = f"{EVENTS}/{event.pk}/reprocess"
    assert refused(send(by_cookie(world.supervisor), "post", url)) == (403, "FORBIDDEN")
    assert refused(send(by_cookie(world.agent), "post", url)) == (403, "FORBIDDEN")
    assert refused(send(by_cookie(world.outsider), "post", url)) == (404, "NOT_FOUND")
    with service_scope("test"):
        WebhookEvent.objects.update(body=None)
    assert refused(send(by_cookie(world.admin), "post", url)) == (409, "WEBHOOK_BODY_GONE")


# --- Orphans -----------------------------------------------------------------------------------------------------


def test_inbound_06_unknown_instance_is_kept_for_a_superuser_who_claims_it(committed_world: World) -> None:
    world = committed_world
    before = _sessions()
    receive(text_event("de ninguém", instance="perdida", external_id="ORPHAN1"))
    [event] = events()
    assert (event.status, event.reason, event.tenant_id) == ("ORPHAN", "unknown_instance", None)
    assert _sessions() == before
    url = f"{EVENTS}/{event.pk}/claim"
    wanted = {"sessionId": str(world.line.pk)}
    for user in (world.admin, world.outsider, world.supervisor):
        assert refused(send(by_cookie(user), "post", url, wanted)) == (404, "NOT_FOUND")
        assert refused(send(by_cookie(user), "get", f"{EVENTS}/{event.pk}")) == (404, "NOT_FOUND")
    assert refused(send(by_cookie(world.agent), "post", url, wanted)) == (403, "FORBIDDEN")
    with tenant_scope(world.ipe.pk):
        assert Message.objects.count() == 0
    root = by_cookie(world.superuser)
    nowhere = send(root, "post", url, {"sessionId": str(world.admin.pk)})
    assert refused(nowhere) == (404, "INSTANCE_NOT_FOUND")
    assert refused(send(root, "post", url, {})) == (400, "VALIDATION_ERROR")
    status, body = send(root, "post", url, wanted)
    assert (status, body["data"]["status"], body["data"]["sessionId"]) == (202, "PENDING", str(world.line.pk))
    drain_inbox()
    with tenant_scope(world.ipe.pk):
        message = Message.objects.get()
        assert (message.external_id, message.session_id) == ("ORPHAN1", world.line.pk)
        assert AuditLog.objects.get(action="webhook_event.claimed").actor_id == world.superuser.pk
    assert refused(send(root, "post", url, wanted)) == (409, "NOT_AN_ORPHAN")
    with tenant_scope(world.cedro.pk):
        assert WebhookEvent.objects.count() == 0


def test_an_orphan_that_runs_again_gets_the_session_of_its_own_instance_or_stays(
    committed_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    receive(text_event("cedo demais", instance="nova-01"))
    [event] = events()
    code, told = run("--event", str(event.pk), capsys=capsys)
    assert (code, told["notRun"], told["fates"]) == (1, {"unknown_instance": 1}, {"orphan": 1})
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.foreign_line.pk).update(broker_instance_id="nova-01")
    code, told = run("--reason", "unknown_instance", capsys=capsys)
    assert (code, told["fates"]) == (0, {"stored": 1})
    with tenant_scope(committed_world.cedro.pk):
        assert Message.objects.get().content == "cedo demais"


def _sessions() -> list[Any]:
    with service_scope("test"):
        return list(WhatsAppSession.objects.order_by("pk").values())


# --- The command -------------------------------------------------------------------------------------------------


def test_the_command_chooses_by_fate_reason_session_and_time(
    committed_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    receive(text_event("um", external_id="A"), text_event("um", external_id="A"), text_event("dois"))
    receive(text_event("deles", instance="cedro-01"), text_event("de ninguém", instance="nada"))
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for arguments, expected in (
        ((), 4), (("--fate", "stored"), 3), (("--fate", "duplicate"), 1), (("--reason", "message_duplicate"), 1),
        (("--session", str(committed_world.foreign_line.pk)), 1), (("--since", "1h"), 4), (("--since", soon), 0),
        (("--until", "1h"), 0), (("--limit", "2"), 2), (("--status", "ORPHAN"), 1), (("--reason", "nothing"), 0),
    ):  # fmt: skip
        code, told = run(*arguments, "--dry-run", capsys=capsys)
        assert (code, told["events"], told["dryRun"]) == (0, expected, True), arguments
    for bad in (("--since", "yesterday"), ("--limit", "0"), ("--event", str(committed_world.ipe.pk))):
        with pytest.raises(CommandError) as refusal:
            call_command("reprocess_webhook_events", *bad, "--dry-run")
        assert refusal.value.returncode == 2, bad


def test_an_item_whose_meaning_changed_ends_anew(committed_world: World, settings: Any) -> None:
    """What was only acknowledged becomes a message once the fallback is on: the same line of the ledger, anew."""
    settings.WHATSAPP_RAW_FALLBACK_ENABLED = False
    raw = next(line["body"] for line in corpus_lines("webhooks.jsonl") if "UPSERT" in line["body"])
    receive(raw.replace("loja1", "ipe-01").encode())
    assert [row[5] for row in ledger()] == ["raw_fallback_disabled"]
    settings.WHATSAPP_RAW_FALLBACK_ENABLED = True
    with service_scope("test"):
        requeue_events(ids=[event.pk for event in events()], actor=None, now=timezone.now())
    drain_inbox()
    [row] = ledger()
    assert (row[4], row[5]) == ("stored", "raw_inbound_normalized")


def test_a_tenant_without_a_queue_waits_again_and_loses_nothing(committed_world: World) -> None:
    with service_scope("test"):
        Queue.objects.filter(tenant=committed_world.ipe).update(is_active=False)
    receive(text_event("espera"))
    with service_scope("test"):
        requeue_events(ids=[event.pk for event in events()], actor=None, now=timezone.now())
    drain_inbox()
    assert [row[4:6] for row in ledger()] == [("pending", "queue_missing")]
    with service_scope("test"):
        Queue.objects.update(is_active=True)
        WebhookItem.objects.update(due_at=timezone.now())
    drain_inbox()
    assert [row[4] for row in ledger()] == ["stored"]
