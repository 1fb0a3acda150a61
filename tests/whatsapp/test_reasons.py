"""Each reason of spec/inbound.md section 14 is at /metrics after its cause, through the real door and drain (17.21)."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.test import Client, override_settings

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.metrics import RAW_CAUSES, REASONS
from leadengine.redis import client as redis_client
from tests.conftest import World
from tests.environment import url
from tests.payloads.builders import poll_choice, raw, update, upsert
from tests.samples import scrape
from tests.whatsapp.door import KEY, post
from tests.whatsapp.inbound import text_event
from tickets.models import Message, Ticket
from whatsapp.models import WebhookItem
from whatsapp.services.drain import drain_inbox

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("unpolluted")]
NO_FALLBACK = override_settings(WHATSAPP_RAW_FALLBACK_ENABLED=False)
CAUSES: dict[str, Callable[[World], Any]] = {}


@pytest.fixture
def unpolluted(committed_world: World) -> Iterator[None]:
    """Refusals of other tests must not make a 429 here."""
    redis_client().flushdb()
    yield
    redis_client().flushdb()


def cause(reason: str) -> Callable[[Callable[[World], Any]], Callable[[World], Any]]:
    """Register what brings a reason about."""

    def register(provoke: Callable[[World], Any]) -> Callable[[World], Any]:
        CAUSES[reason] = provoke
        return provoke

    return register


def taken(*bodies: Any) -> None:
    """Post bodies one after the other, each processed to its end."""
    for body in bodies:
        assert post(body).status in (202, 204)
        drain_inbox()


def our_message(world: World, external_id: str) -> None:
    """A message of ours that left."""
    taken(text_event("Oi"))
    with tenant_scope(world.ipe.pk):
        ticket = Ticket.objects.get()
        Ticket.objects.filter(pk=ticket.pk).update(last_position=2)
        Message.objects.create(
            tenant=world.ipe, ticket=ticket, contact_id=ticket.contact_id, position=2, direction="OUTBOUND",
            status="SENT", source="AGENT", sent_at=ticket.created_at, session_id=world.line.pk, external_id=external_id,
            content="Olá",
        )  # fmt: skip


def ack(external_id: str, status: Any, *, from_me: bool = True) -> dict[str, Any]:
    return update(status, {"id": external_id, "fromMe": from_me})


# --- accepted ----------------------------------------------------------------------------------------------------

cause("ok")(lambda world: taken(text_event()))
cause("raw_inbound_normalized")(lambda world: taken(upsert(raw({"conversation": "oi"}))))
cause("empty")(lambda world: taken([]))


@cause("message_enriched")
def _(world: World) -> None:
    picture = {"imageMessage": {"mimetype": "image/jpeg", "caption": "olha"}}
    hollow = text_event("x", external_id="M1")
    hollow["payload"]["message"].update(text=None, type="media", media={"mediaType": "image"})
    taken(hollow, upsert(raw(picture)))


@cause("outbound_echo")
def _(world: World) -> None:
    typed = text_event("do celular")
    typed["event"] = "MESSAGE_OUTBOUND"
    taken(typed)


@cause("reaction")
def _(world: World) -> None:
    taken(upsert(raw({"conversation": "oi"}, {"id": "T1"})))
    taken(upsert(raw({"reactionMessage": {"key": {"id": "T1"}, "text": "👍"}}, {"id": "T2"})))


cause("poll_choice")(lambda world: taken(poll_choice()))


@cause("ack_applied")
def _(world: World) -> None:
    our_message(world, "OURS")
    taken(ack("OURS", 3))


# --- ignored -----------------------------------------------------------------------------------------------------

cause("raw_inbound_ignored")(lambda world: taken(upsert(raw({}))))
cause("message_duplicate")(lambda world: taken(text_event(external_id="TWICE"), text_event(external_id="TWICE")))
cause("unsupported_event")(lambda world: taken({"event": "CONTACT_UPDATED", "instanceId": "ipe-01"}))
cause("invalid_contract")(lambda world: taken({"event": "MESSAGE_INBOUND", "instanceId": "ipe-01", "payload": {}}))
cause("unknown_instance")(lambda world: taken(text_event(instance="nobody")))
cause("ack_message_not_found")(lambda world: taken(ack("NEVER", 3)))
cause("ack_not_outgoing")(lambda world: taken(ack("THEIRS", 3, from_me=False)))
cause("ack_unknown_status")(lambda world: taken(ack("OURS", "TELEPATHY")))


@cause("raw_fallback_disabled")
def _(world: World) -> None:
    with NO_FALLBACK:
        taken(upsert(raw({"conversation": "oi"})))


@cause("missing_instance")
def _(world: World) -> None:
    nameless = text_event()
    del nameless["instanceId"]
    taken(nameless)


@cause("no_sender")
def _(world: World) -> None:
    nobody = text_event()
    nobody["payload"]["contact"].update(remoteJid=None, phone=None)
    nobody["payload"]["message"]["chatId"] = None
    taken(nobody)


def from_chat(jid: str) -> dict[str, Any]:
    event = text_event()
    event["payload"]["contact"]["remoteJid"] = event["payload"]["message"]["chatId"] = jid
    return event


cause("status_broadcast")(lambda world: taken(from_chat("status@broadcast")))
cause("newsletter")(lambda world: taken(from_chat("120363000000000000@newsletter")))


@cause("ack_noop")
def _(world: World) -> None:
    our_message(world, "OURS")
    taken(ack("OURS", 2))


@cause("ack_regression")
def _(world: World) -> None:
    our_message(world, "OURS")
    taken(ack("OURS", 4), ack("OURS", 3))


@cause("poll_choice_invalid")
def _(world: World) -> None:
    vote = copy.deepcopy(poll_choice())
    vote["payload"].pop("pollId")
    taken(vote)


cause("poll_choice_duplicate")(lambda world: taken(poll_choice(), poll_choice()))


# --- rejected and failed -----------------------------------------------------------------------------------------

cause("missing_authorization")(lambda world: post(text_event(), {"Accept": "*/*"}))
cause("invalid_api_key")(lambda world: post(text_event(), {"X-API-Key": "wrong"}))
cause("invalid_signature")(lambda world: post(text_event(), {**KEY, "x-signature": "0" * 64}))
cause("invalid_json")(lambda world: post(b"{"))


@cause("no_key_configured")
def _(world: World) -> None:
    with override_settings(WHATSAPP_WEBHOOK_API_KEY=[]):
        post(text_event())


@cause("body_too_large")
def _(world: World) -> None:
    with override_settings(WHATSAPP_WEBHOOK_MAX_BODY_BYTES=1024):
        post(b"x" * 2048)


@cause("rate_limited")
def _(world: World) -> None:
    with override_settings(WHATSAPP_WEBHOOK_UNAUTH_PER_MINUTE=1):
        for _ in range(2):
            post(text_event(), {"X-API-Key": "wrong"}, address="10.66.6.6")


@cause("storage_unavailable")
def _(world: World) -> None:
    with override_settings(DATABASE_URL="postgres://leadengine_app:x@127.0.0.1:1/nothing"):
        assert post(text_event()).status == 503


@cause("processing_error")
def _(world: World) -> None:
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("ALTER TABLE tickets_message ADD CONSTRAINT poison CHECK (content <> 'veneno')")
        try:
            taken(text_event("veneno"))
            for _ in range(5):
                with service_scope("test"):
                    WebhookItem.objects.filter(fate="pending").update(due_at="2020-01-01T00:00:00Z")
                drain_inbox()
        finally:
            owner.execute("ALTER TABLE tickets_message DROP CONSTRAINT poison")


OF_THIS_PAGE = (
    "whatsapp_webhook_", "whatsapp_raw_", "whatsapp_message_effects", "whatsapp_inbound_", "whatsapp_pipeline_",
    "whatsapp_dedupe_", "whatsapp_drain_",
)  # fmt: skip

# --- What /metrics says ------------------------------------------------------------------------------------------

RESULTS = {reason: result for result, reasons in REASONS.items() for reason in reasons}


def seen() -> Counter[tuple[str, str]]:
    """{(result, reason): count}."""
    counts: Counter[tuple[str, str]] = Counter()
    for (_, _payload_type, reason, result), value in scrape("whatsapp_webhook_events_total").items():
        counts[result, reason] += int(value)
    return counts


def test_every_reason_has_its_cause_here() -> None:
    assert set(CAUSES) == set(RESULTS)


@pytest.mark.parametrize("reason", RESULTS)
def test_inbound_21_each_reason_is_seen_after_its_cause(committed_world: World, reason: str) -> None:
    pair = RESULTS[reason], reason
    before = seen()
    assert pair in before, "known from the start, so that the first one is seen"
    CAUSES[reason](committed_world)
    assert seen()[pair] >= before[pair] + 1


def test_inbound_21_labels_hold_no_tenant_session_or_phone_and_histograms_have_buckets(committed_world: World) -> None:
    taken(text_event(phone="+5511987650000"), upsert(raw({})))
    page = Client().get("/metrics").content.decode()
    ours = [line for line in page.splitlines() if line.startswith(OF_THIS_PAGE)]
    for word in ("5511987650000", "ipe-01", "inst-ipe", "cedro", str(committed_world.ipe.pk), "Loja"):
        assert not [line for line in ours if word in line], word
    for name in ("ack_seconds", "inbound_latency_seconds", "inbound_broker_lag_seconds"):
        full = f"whatsapp_webhook_{name}" if name == "ack_seconds" else f"whatsapp_{name}"
        assert re.search(rf"^{full}_bucket\{{le=", page, re.M), full
    for gauge, labels in (
        ("whatsapp_webhook_backlog", {f'state="{state}"' for state in ("pending", "parked", "orphan", "failed")}),
        ("whatsapp_pipeline_latency_seconds", {'quantile="0.5"', 'quantile="0.95"'}),
        ("whatsapp_dedupe_total", {'outcome="hit"', 'outcome="miss"'}),
        ("whatsapp_raw_ignored_total", {f'cause="{one}"' for one in RAW_CAUSES}),
    ):
        assert {line[len(gauge) + 1 : line.index("}")] for line in ours if line.startswith(f"{gauge}{{")} == labels
    for gauge in ("whatsapp_webhook_oldest_pending_seconds", "whatsapp_dedupe_hit_ratio"):
        assert re.search(rf"^{gauge} [0-9.e+-]+$", page, re.M), gauge
