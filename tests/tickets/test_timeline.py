"""Counters and timeline: what the writers leave is what the stored messages say, whatever happened before."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection

from leadengine.accounts.scopes import tenant_scope
from tests.conftest import World
from tests.environment import url
from tests.outbound import claim_due, events_of, queue, reload, until
from tests.tickets.desk import arrive
from tests.tickets.histories import BEGAN, PEOPLE, History, ids_of
from tests.whatsapp.inbound import store
from tickets.services.outbox.settling import Try, settle
from tickets.services.state import timeline_of
from tickets.services.timeline import Drift, find_drifts
from tickets.transports import Sent, get_transport
from whatsapp.services.drain import drain_inbox
from whatsapp.transport import BrokerTransport


def drifts(world: World, history: History) -> list[Drift]:
    ids = ids_of(history.tickets())
    with tenant_scope(world.ipe.pk):
        return find_drifts(tenant_id=world.ipe.pk, ids=ids)


@pytest.mark.parametrize("seed", range(12))
def test_columns_equal_their_recomputation_after_every_step(world: World, seed: int) -> None:
    history = History(world, seed)
    for _ in range(120):
        history.step()
        found = drifts(world, history)
        assert not found, (history.told[-6:], [drift.shown() for drift in found])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(3))
def test_deltas_of_the_events_lead_to_the_rows(committed_world: World, seed: int) -> None:
    history = History(committed_world, 100 + seed)
    seen: dict[str, dict[str, Any]] = {}
    with events_of(committed_world) as events:
        for _ in range(60):
            history.step()
        for name, data in events():
            if name in {"ticket.message", "ticket.updated"}:
                seen.setdefault(data["ticketId"], {}).update(data["timeline"])
    tickets = history.tickets()
    assert tickets
    for ticket in tickets:
        timeline = timeline_of(ticket)
        nothing = {key: 0 if key.endswith("Count") else None for key in timeline}
        assert nothing | seen[str(ticket.pk)] == timeline


def test_customer_who_writes_in_the_second_in_which_we_answer_waits(world: World) -> None:
    history = History(world, 0)
    at = BEGAN.replace(second=30)
    arrive(world, "Oi", phone=PEOPLE[0], at=BEGAN)
    history.queue()
    history.claim()
    arrive(world, "Ainda estão aí?", phone=PEOPLE[0], at=at)
    (claim,) = history.flying
    tried = Try(Sent("A1", 200, "{}"), at + timedelta(milliseconds=400), 5)
    settle(transport=get_transport("WHATSAPP"), claim=claim, tried=tried)
    (ticket,) = history.tickets()
    assert (ticket.unanswered_count, ticket.waiting_since, ticket.last_outbound_at) == (1, at, at)
    assert (ticket.last_message_preview, ticket.last_direction) == ("Ainda estão aí?", "INBOUND")
    assert not drifts(world, history)


@pytest.mark.django_db(transaction=True)
def test_ack_that_comes_while_its_message_gets_its_id_is_not_left_waiting(committed_world: World) -> None:
    world, at = committed_world, datetime.now(UTC)
    ticket = arrive(world, "Oi", at=at - timedelta(minutes=1))
    message = queue(world, ticket)
    with tenant_scope(world.ipe.pk):
        line = get_transport("WHATSAPP").line(world.line.pk)
    assert line is not None
    (claim,) = claim_due(line=line, now=at)
    store(ack_event("RACE1", 4))
    answers: list[int] = []

    def drain() -> None:
        answers.append(drain_inbox())
        connection.close()

    draining = threading.Thread(target=drain)

    class Slow(BrokerTransport):
        def bound(self, **about: Any) -> None:
            """The ack is looked up between our own look for what waits and our commit."""
            super().bound(**about)
            draining.start()
            until(lambda: not draining.is_alive() or _somebody_waits())

    settle(transport=Slow(), claim=claim, tried=Try(Sent("RACE1", 200, "{}"), at, 5))
    draining.join(20)
    assert answers == [1]
    assert reload(message).status == "READ"


def ack_event(external_id: str, status: int) -> dict[str, Any]:
    update = {"key": {"id": external_id, "fromMe": True, "remoteJid": f"{PEOPLE[0][1:]}@s.whatsapp.net"}}
    return {
        "event": "WHATSAPP_MESSAGES_UPDATE",
        "instanceId": "ipe-01",
        "payload": {"iid": "ipe-01", "raw": {"updates": [{**update, "update": {"status": status}}]}},
    }


def _somebody_waits() -> bool:
    with psycopg.connect(url("leadengine_app")) as other:
        row = other.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'").fetchone()
    return bool(row and row[0])
