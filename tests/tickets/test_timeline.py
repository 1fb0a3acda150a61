"""Counters and timeline: what the writers leave is what the stored messages say, whatever happened before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from leadengine.accounts.scopes import tenant_scope
from tests.conftest import World
from tests.outbound import events_of
from tests.tickets.desk import arrive
from tests.tickets.histories import BEGAN, PEOPLE, History, ids_of
from tickets.services.outbox.settling import Try, settle
from tickets.services.state import timeline_of
from tickets.services.timeline import Drift, find_drifts
from tickets.transports import Sent, get_transport


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
