"""What happens is kept in its own transaction, at the cost of one question, and only for those who asked."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.ids import uuid7
from leadengine.realtime.broadcast import broadcast
from leadengine.redis import client
from leadengine.webhooks.models import EVENTS, OutgoingEvent
from leads.events import LeadUpdated
from leads.models import Lead
from tests.conftest import World
from tests.payloads.freeze import CONTRACTS, contract, declared
from tests.realtime.test_contracts import EVENTS as D21
from tests.tickets.desk import arrive
from tests.webhooks.receiver import connect, deliveries
from tickets.services.outbox.circuit import record_call
from tickets.transports import get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.lines import announce_sessions, look_at_circuits
from whatsapp.services.persistence import saving

URL = "https://erp.example.test/hook"
SECRET_WORDS = re.compile(r"qr|key|secret|token|password|authorization|credential", re.I)
# They say that there is a code, and for how long: never the code.
HARMLESS = {"hasQr", "qrVersion", "qrExpiresAt"}
ASKED = "FROM webhooks_endpoint"


def happen(world: World, name: str = "NEW") -> LeadUpdated:
    """An event of `ipe`, in the running transaction."""
    lead = Lead.objects.for_tenant(world.ipe.pk).get()
    event = LeadUpdated.model_validate(
        {
            "tenant_id": world.ipe.pk, "at": timezone.now(), "lead_id": lead.pk, "contact_id": lead.contact_id,
            "change": "updated", "stage_id": lead.stage_id, "status": name, "rank": lead.rank, "version": 1,
        }
    )  # fmt: skip
    broadcast(event)
    return event


def undo(world: World, name: str) -> None:
    happen(world, name)
    raise ZeroDivisionError


def test_all_events_of_d21_but_presence_leave_the_house() -> None:
    assert set(EVENTS) == D21 - {"presence.updated"} == set(declared()) - {"presence.updated"}


@pytest.mark.parametrize("name", EVENTS)
def test_no_contract_has_a_place_for_a_secret(name: str) -> None:
    """The free objects of the contracts are looked at below, with what is really sent."""
    frozen = json.loads((CONTRACTS / f"{name}.json").read_text(encoding="utf-8"))
    assert frozen == json.loads(contract(declared()[name]))
    assert {field for field in _fields(frozen["data"]) if SECRET_WORDS.search(field)} <= HARMLESS


def _fields(node: Any) -> set[str]:
    if isinstance(node, list):
        return {field for one in node for field in _fields(one)}
    if not isinstance(node, dict):
        return set()
    return set(node.get("properties", {})) | {field for one in node.values() for field in _fields(one)}


def test_a_message_is_told_as_sockets_get_it(committed_world: World) -> None:
    world = committed_world
    endpoint, _ = connect(world.admin, URL)
    theirs, _ = connect(world.outsider, URL)
    ticket = arrive(world, "Olá, tudo bem?")
    kept = deliveries(endpoint)
    assert {one.type for one in kept} == {"messages.new", "ticket.message", "ticket.updated", "lead.updated"}
    body = json.loads(next(one for one in kept if one.type == "messages.new").event.body)
    assert set(body) == {"id", "type", "timestamp", "tenantId", "data"}
    assert (body["id"], body["tenantId"]) == (body["data"]["eventId"], str(world.ipe.pk))
    assert body["id"] == str(kept[0].event_id)
    assert (body["timestamp"], body["type"]) == (body["data"]["at"], "messages.new")
    assert (body["data"]["preview"], body["data"]["ticketId"]) == ("Olá, tudo bem?", str(ticket.pk))
    assert deliveries(theirs) == []


def test_an_endpoint_gets_what_it_asked_for(committed_world: World) -> None:
    world = committed_world
    one, _ = connect(world.admin, URL, "messages.new")
    two, _ = connect(world.admin, URL, "messages.new", "lead.updated")
    arrive(world)
    assert [each.type for each in deliveries(one)] == ["messages.new"]
    assert {each.type for each in deliveries(two)} == {"messages.new", "lead.updated"}
    with service_scope("test"):
        assert OutgoingEvent.objects.count() == 2, "a body is kept once, however many get it"


def test_what_is_rolled_back_did_not_happen(committed_world: World) -> None:
    world = committed_world
    arrive(world)
    endpoint, _ = connect(world.admin, URL)
    with pytest.raises(ZeroDivisionError), tenant_scope(world.ipe.pk):
        undo(world, "undone")
    assert deliveries(endpoint) == []
    with tenant_scope(world.ipe.pk):
        happen(world, "first")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            undo(world, "undone")
        happen(world, "second")
    assert [json.loads(one.event.body)["data"]["status"] for one in deliveries(endpoint)] == ["first", "second"]


def test_a_tenant_without_endpoints_pays_one_question_a_transaction(committed_world: World) -> None:
    world = committed_world
    arrive(world)
    with tenant_scope(world.ipe.pk), CaptureQueriesContext(connection) as seen:
        for _ in range(20):
            happen(world)
            transaction.on_commit(lambda: None)  # other hooks stand between
    assert [ASKED in one["sql"] for one in seen].count(True) == 1
    assert not [one for one in seen if "INSERT" in one["sql"]]
    assert client().get("wake:webhooks") is None


def test_with_endpoints_it_is_one_statement_an_event(committed_world: World) -> None:
    world = committed_world
    arrive(world)
    for _ in range(3):
        connect(world.admin, URL)
    with tenant_scope(world.ipe.pk), CaptureQueriesContext(connection) as seen:
        for _ in range(5):
            happen(world)
    assert len([one for one in seen if "INSERT" in one["sql"]]) == 5
    assert len(deliveries()) == 15
    assert client().get("wake:webhooks") is not None, "woken once it was committed"


@pytest.mark.parametrize("who", ["agent", "superuser"])
def test_whoever_makes_it_happen_it_is_kept(committed_world: World, who: str) -> None:
    """An agent's own scope, and that of the service, which sees all tenants."""
    world = committed_world
    arrive(world)
    endpoint, _ = connect(world.admin, URL)
    connect(world.outsider, URL)
    with user_scope(getattr(world, who)):
        event = happen(world)
    assert [(one.event_id, one.endpoint_id) for one in deliveries()] == [(event.event_id, endpoint.pk)]


def test_an_endpoint_that_is_off_gets_nothing_but_the_event_is_kept(committed_world: World) -> None:
    world = committed_world
    connect(world.admin, URL, enabled=False)
    arrive(world)
    assert deliveries() == []
    with service_scope("test"):
        assert OutgoingEvent.objects.count() == 4


def test_every_change_of_a_connection_is_told_in_full_without_its_code(committed_world: World) -> None:
    """Sockets get one a second; an endpoint must not miss the last of three changes in one."""
    world = committed_world
    endpoint, _ = connect(world.admin, URL)
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=world.line.pk).update(qr_raw="2@QRSECRET", qr_code="QRSECRET")
    for _ in range(3):
        with tenant_scope(world.ipe.pk):
            announce_sessions(tenant_id=world.ipe.pk, ids=[world.line.pk], change="qr", now=timezone.now())
    kept = deliveries(endpoint)
    assert [one.type for one in kept] == ["whatsapp.session.updated"] * 3
    data = json.loads(kept[0].event.body)["data"]
    assert data["evidence"]["strikes"] == 0, "as a supervisor sees it"
    assert data["hasQr"] is True
    assert data["circuit"]["state"] == "closed"
    assert not any("QRSECRET" in one.event.body for one in kept)


def test_the_opening_of_a_circuit_is_told_as_it_is(committed_world: World, settings: Any) -> None:
    world, now = committed_world, timezone.now()
    endpoint, _ = connect(world.admin, URL, "whatsapp.session.updated")
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 1
    look_at_circuits(now=now)
    record_call(session_id=world.line.pk, token=uuid7(), outcome="bad", probe=False, now=now)
    with tenant_scope(world.ipe.pk):
        get_transport("WHATSAPP").circuit_changed(tenant_id=world.ipe.pk, session_id=world.line.pk, now=now)
    (told,) = deliveries(endpoint)
    assert json.loads(told.event.body)["data"]["circuit"]["state"] == "open"
