"""Tickets that wait for the customer or for a time, and wake (spec/tickets-leads.md section 4)."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from leadengine.accounts.models import User
from leadengine.errors import ValidationFailed
from tickets.models import Ticket
from tickets.services.lifecycle.states import check_action, lock_ticket, save_state

LEAST, MOST = timedelta(minutes=1), timedelta(days=90)


def snooze_ticket(
    *, actor: User, ticket_id: UUID, until: datetime | None, version: int | None = None, now: datetime
) -> Ticket:
    """Let a ticket rest until a time, or (None) until the customer writes again; the assignee keeps it.

    Raises: NotFound, ValidationFailed (until: 1 minute to 90 days), UnableToAct, VersionConflict.
    """
    tenant_id, state = lock_ticket(actor, ticket_id)
    check_action(state, "snooze", version)
    if until is not None and not LEAST <= until - now <= MOST:
        raise ValidationFailed([{"field": "until", "message": "De 1 minuto a 90 dias a partir de agora."}])
    reason = "WAITING_CUSTOMER" if until is None else "SNOOZED"
    state.note_entry("SNOOZED", at=now, actor_id=actor.pk, from_=state.status, to=until.isoformat() if until else "")
    state.status, state.pending_reason, state.snoozed_until = "PENDING", reason, until
    return save_state(tenant_id, state, ["status", "snoozedUntil"], now)


def wake_ticket(*, actor: User, ticket_id: UUID, version: int | None = None, now: datetime) -> Ticket:
    """Bring a resting ticket back: to its assignee, else into its queue.

    Raises: NotFound, UnableToAct, VersionConflict.
    """
    tenant_id, state = lock_ticket(actor, ticket_id)
    check_action(state, "wake", version)
    state.note_entry("WOKEN", at=now, actor_id=actor.pk)
    state.status = "ASSIGNED" if state.assignee_id else "OPEN"
    state.pending_reason = state.snoozed_until = None
    return save_state(tenant_id, state, ["status", "snoozedUntil"], now)
