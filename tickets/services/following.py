"""Tickets and messages go with their contact when it is merged into another, and come back (leads.services.merging)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine import metrics
from leadengine.accounts.models import User
from leads.models import Contact
from tickets.models import CloseReason, Message, Ticket
from tickets.models.tickets import LIVE
from tickets.services.announce import announce_ticket
from tickets.services.state import TicketState, lock_tickets, save_tickets
from tickets.services.withdrawing import withdraw_for_end
from tickets.transports import get_transport

MERGED = "MERGED"
PARTED = "parted"  # the reason of a CONTACT_MERGED entry that tells of an undo
_NAME = 120


class TicketFollower:
    """leads.services.merging.Follower: {tickets: [id], messages: how many, ended: [id]}."""

    def move(self, *, source: Contact, target: Contact, actor: User | None, now: datetime) -> dict[str, Any]:
        """Give the target all tickets and messages. Of two live tickets on one session the later one ends MERGED."""
        states = _lock_all(target.tenant_id, [source.pk, target.pk])
        moved = [state for state in states if state.contact_id == source.pk]
        ended = _find_doubles(states)
        touched = [state for state in states if state.contact_id == source.pk or state.status in LIVE]
        _note(touched, source.name, target.name, actor, now)
        if ended:
            _end(target.tenant_id, ended, actor, now)
        save_tickets(tenant_id=target.tenant_id, states=touched)
        messages = _hand_over(target.tenant_id, [state.id for state in moved], target.pk)
        over = [state.id for state in ended]
        withdraw_for_end(tenant_id=target.tenant_id, contact_ids=[target.pk], ticket_ids=over, now=now)
        _announce(target.tenant_id, touched, ended, now)
        return {
            "tickets": [str(state.id) for state in moved],
            "messages": messages,
            "ended": [str(state.id) for state in ended],
        }

    def give_back(
        self, *, source: Contact, target: Contact, moved: Mapping[str, Any], actor: User | None, now: datetime
    ) -> None:
        """Give the source the tickets back that were its own, with all their messages.

        A ticket that the merge ended lives again, unless somebody has done something with it or opened another since.
        """
        states = _lock_all(target.tenant_id, [target.pk])
        own = {UUID(ticket_id) for ticket_id in moved["tickets"]}
        live = {(state.session_id, state.id in own) for state in states if state.status in LIVE}
        merged = _find_reason(target.tenant_id).pk
        revived = [
            state
            for state in states
            if str(state.id) in moved["ended"]
            and state.close_reason_id == merged
            and (state.session_id, state.id in own) not in live
        ]
        kept = own | {state.id for state in revived}
        touched = [state for state in states if state.id in kept or state.status in LIVE]
        _note(touched, target.name, source.name, actor, now, PARTED)
        for state in revived:
            _revive(state, actor, now)
        _hand_over(target.tenant_id, [state.id for state in states if state.id in own], source.pk)
        save_tickets(tenant_id=target.tenant_id, states=touched)
        _announce(target.tenant_id, touched, revived, now)


def _lock_all(tenant_id: UUID, contact_ids: Sequence[UUID]) -> list[TicketState]:
    """Lock the tickets of contacts, the oldest first.

    Messages in flight come before them: who settles a send holds its row, and then asks for the ticket.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT id FROM tickets_message WHERE tenant_id = %s AND contact_id = ANY(%s)
                   AND status IN ('SENDING', 'UNCONFIRMED') ORDER BY id FOR UPDATE""",
            [tenant_id, list(contact_ids)],
        )
    ids = Ticket.objects.for_tenant(tenant_id).filter(contact_id__in=contact_ids).values_list("pk", flat=True)
    states = lock_tickets(tenant_id=tenant_id, ids=list(ids)).values()
    return sorted(states, key=lambda state: state.number)


def _find_doubles(states: Sequence[TicketState]) -> list[TicketState]:
    """Live tickets that stand behind an older one of the same session."""
    sessions: set[UUID] = set()
    doubles = []
    for state in states:
        if state.status in LIVE and state.session_id is not None:
            if state.session_id in sessions:
                doubles.append(state)
            sessions.add(state.session_id)
    return doubles


def _end(tenant_id: UUID, states: Sequence[TicketState], actor: User | None, now: datetime) -> None:
    reason = _find_reason(tenant_id)
    for state in states:
        state.note_entry(
            "CLOSED", at=now, actor_id=actor.pk if actor else None, from_=state.status, to=reason.outcome,
            reason=reason.code,
        )  # fmt: skip
        state.status, state.close_reason_id = reason.outcome, reason.pk
        state.closed_at, state.closed_by_id = now, actor.pk if actor else None
        state.pending_reason = state.snoozed_until = None
        metrics.count(metrics.tickets_closed.labels(outcome=reason.outcome))


def _revive(state: TicketState, actor: User | None, now: datetime) -> None:
    state.note_entry("REOPENED", at=now, actor_id=actor.pk if actor else None, from_=state.status)
    state.status = "ASSIGNED" if state.assignee_id else "OPEN"
    state.closed_at = state.closed_by_id = state.close_reason_id = None
    state.close_note = ""
    state.reopened_count += 1
    metrics.count(metrics.tickets_reopened)


def _find_reason(tenant_id: UUID) -> CloseReason:
    """The tenant's reason MERGED; made where a tenant has none."""
    reason: CloseReason
    reason, _ = CloseReason.objects.for_tenant(tenant_id).get_or_create(
        code=MERGED,
        defaults={"tenant_id": tenant_id, "label": "Unido a outro atendimento", "outcome": "CLOSED"},
    )
    return reason


def _note(
    states: Sequence[TicketState], from_: str, to: str, actor: User | None, now: datetime, reason: str = ""
) -> None:
    actor_id = actor.pk if actor else None
    for state in states:
        state.note_entry(
            "CONTACT_MERGED", at=now, actor_id=actor_id, from_=from_[:_NAME], to=to[:_NAME], reason=reason
        )  # fmt: skip


def _hand_over(tenant_id: UUID, ids: Sequence[UUID], contact_id: UUID) -> int:
    """Give tickets and their messages to a contact; how many messages. A message never leaves its ticket."""
    Ticket.objects.for_tenant(tenant_id).filter(pk__in=ids).update(contact_id=contact_id)
    count: int = Message.objects.for_tenant(tenant_id).filter(ticket_id__in=ids).update(contact_id=contact_id)
    return count


def _announce(tenant_id: UUID, states: Sequence[TicketState], turned: Sequence[TicketState], now: datetime) -> None:
    changes = {state.id for state in turned}
    channels = dict(Ticket.objects.filter(pk__in=[state.id for state in states]).values_list("pk", "channel"))
    for state in states:
        changed = ["contact", "status", "closeReason"] if state.id in changes else ["contact"]
        announce_ticket(tenant_id=tenant_id, state=state, changed=changed, now=now)
        if state.id in changes:
            get_transport(channels[state.id]).ticket_changed(tenant_id=tenant_id, ticket_id=state.id, now=now)
