"""The life of a ticket in people's hands: take, assign, close, reopen, edit (spec/tickets-leads.md section 4).

Everything runs in the caller's scope and transaction, under the ticket's row lock. A ticket that the actor may not see
is NotFound, like one that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any
from uuid import UUID

import structlog
from django.db import IntegrityError, connection, transaction

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.accounts.services import write_audit
from leadengine.errors import DomainError, NotFound, ValidationFailed
from leadengine.sql import dumps
from tickets.models import CloseReason, Queue, QueueMembership, Ticket, TicketEvent
from tickets.models.tickets import LIVE
from tickets.policy import ALL, load_viewer
from tickets.services.announce import announce_ticket
from tickets.services.state import TicketState, lock_tickets, save_tickets
from tickets.services.withdrawing import withdraw_for_end
from tickets.transports import get_transport

# What may be done in each state; transfer comes with its own service.
ACTIONS = {
    "OPEN": {"take", "assign", "snooze", "close"},
    "ASSIGNED": {"take", "assign", "unassign", "snooze", "close"},
    "PENDING": {"wake", "close"},
    "RESOLVED": {"reopen"},
    "CLOSED": {"reopen"},
}
MOST_METADATA = 65_536  # bytes of JSON


class NotAllowed(DomainError):
    """Você não tem permissão para isso."""

    code = "FORBIDDEN"
    status = 403


class UnableToAct(DomainError):
    """O atendimento não está em um estado que permita isso. Details: from, action."""

    code = "INVALID_TRANSITION"
    status = 409


class UnableToTake(DomainError):
    """Outra pessoa já assumiu este atendimento. Details: assignee{id, name}, assignedAt."""

    code = "TICKET_ALREADY_ASSIGNED"
    status = 409


class UnableToAssign(DomainError):
    """Esta pessoa não pode receber atendimentos desta fila."""

    code = "INVALID_ASSIGNEE"
    status = 422


class UnableToReopen(DomainError):
    """O contato já tem outro atendimento aberto nesta conexão. Details: existingTicketId."""

    code = "OPEN_TICKET_EXISTS"
    status = 409


class VersionConflict(DomainError):
    """O atendimento mudou enquanto isso: veja como está agora. Details: version, and ticket at the API."""

    code = "VERSION_CONFLICT"
    status = 409


def take_ticket(*, actor: User, ticket_id: UUID, now: datetime, version: int | None = None) -> Ticket:
    """Assign an unassigned ticket to the actor; one that is already theirs stays as it is.

    Raises: NotFound, UnableToTake (naming the owner), UnableToAct, VersionConflict, NotAllowed.
    """
    tenant_id, state = lock_ticket(actor, ticket_id, taking=True)
    if state.assignee_id == actor.pk and state.status in LIVE:
        return _row(state)
    if state.assignee_id is not None and state.status in LIVE:
        raise _lost(state)
    check_action(state, "take", version)
    return _assign(tenant_id, actor, state, actor, now)


def assign_ticket(
    *,
    actor: User,
    ticket_id: UUID,
    user_id: UUID,
    expected_assignee_id: UUID | EllipsisType | None = ...,
    version: int | None = None,
    now: datetime,
) -> Ticket:
    """Assign a ticket to a person who may see its queue; an agent to themselves is `take_ticket`.

    Giving somebody else a ticket needs tickets:assign-others or being its assignee. With `expected_assignee_id` (None:
    nobody) it happens only if that is who has it.
    Raises: NotFound, NotAllowed, UnableToAssign, UnableToTake, UnableToAct, VersionConflict.
    """
    supervises = actor.may("tickets:assign-others")
    tenant_id, state = lock_ticket(actor, ticket_id, taking=user_id == actor.pk)
    if expected_assignee_id is not ... and expected_assignee_id != state.assignee_id:
        raise _lost(state)
    if state.assignee_id == user_id and state.status in LIVE:
        return _row(state)
    if user_id == actor.pk and state.assignee_id is not None and not supervises:
        raise _lost(state)
    if user_id != actor.pk and state.assignee_id != actor.pk and not supervises:
        raise NotAllowed
    check_action(state, "assign", version)
    target = actor if user_id == actor.pk else _find_member(tenant_id, user_id, state.queue_id)
    return _assign(tenant_id, actor, state, target, now)


def unassign_ticket(*, actor: User, ticket_id: UUID, version: int | None = None, now: datetime) -> Ticket:
    """Put an assigned ticket back into its queue; by its assignee, or with tickets:assign-others.

    Raises: NotFound, NotAllowed, UnableToAct, VersionConflict.
    """
    tenant_id, state = lock_ticket(actor, ticket_id)
    check_action(state, "unassign", version)
    if state.assignee_id != actor.pk and not actor.may("tickets:assign-others"):
        raise NotAllowed
    before = state.assignee_id
    state.note_entry("UNASSIGNED", at=now, actor_id=actor.pk, from_=_name(before))
    state.status, state.assignee_id = "OPEN", None
    ticket = save_state(tenant_id, state, ["status", "assigneeId"], now)
    if before != actor.pk:
        _audit(tenant_id, actor, "ticket.unassigned", ticket, {"assigneeId": [str(before), None]})
    return ticket


def close_ticket(
    *,
    actor: User,
    ticket_id: UUID,
    reason_code: str,
    note: str = "",
    version: int | None = None,
    now: datetime,
) -> Ticket:
    """End a ticket with an active reason, whose outcome decides RESOLVED or CLOSED; the assignee is kept.

    What was scheduled in it is canceled.

    A blank `reason_code` means the first plain reason, where the queue requires none.
    Raises: NotFound, ValidationFailed (reasonCode, note), UnableToAct, VersionConflict.
    """
    tenant_id, state = lock_ticket(actor, ticket_id)
    check_action(state, "close", version)
    reason = _find_reason(tenant_id, state.queue_id, reason_code, note)
    before = state.status
    entry = f"{reason.code}: {note}" if note else reason.code
    state.note_entry("CLOSED", at=now, actor_id=actor.pk, from_=before, to=reason.outcome, reason=entry[:500])
    state.status, state.close_reason_id, state.close_note = reason.outcome, reason.pk, note
    state.closed_at, state.closed_by_id = now, actor.pk
    state.pending_reason = state.snoozed_until = None
    ticket = save_state(tenant_id, state, ["status", "closeReason", "snoozedUntil"], now)
    withdraw_for_end(tenant_id=tenant_id, contact_ids=[state.contact_id], ticket_ids=[state.id], now=now)
    _audit(
        tenant_id, actor, "ticket.closed", ticket,
        {"status": [before, reason.outcome], "closeReason": [None, reason.code]},
    )  # fmt: skip
    metrics.count(metrics.tickets_closed.labels(outcome=reason.outcome))
    return ticket


def reopen_ticket(*, actor: User, ticket_id: UUID, version: int | None = None, now: datetime) -> Ticket:
    """Reopen an ended ticket under its number: ASSIGNED to its assignee if still active in the queue, else OPEN.

    Raises: NotFound, UnableToAct, UnableToReopen (another one is open), VersionConflict.
    """
    tenant_id, state = lock_ticket(actor, ticket_id)
    check_action(state, "reopen", version)
    stays = state.assignee_id is not None and _is_member(tenant_id, state.assignee_id, state.queue_id)
    state.note_entry("REOPENED", at=now, actor_id=actor.pk, from_=state.status)
    state.status = "ASSIGNED" if stays else "OPEN"
    state.assignee_id = state.assignee_id if stays else None
    state.closed_at = state.closed_by_id = state.close_reason_id = None
    state.close_note = ""
    state.reopened_count += 1
    try:
        with transaction.atomic():
            ticket = save_state(tenant_id, state, ["status", "closeReason", "assigneeId"], now)
    except IntegrityError as error:
        if "ticket_one_open" not in str(error):
            raise
        other = Ticket.objects.for_tenant(tenant_id).filter(
            contact_id=state.contact_id, session_id=state.session_id, status__in=LIVE
        )
        raise UnableToReopen(existingTicketId=str(other.values_list("pk", flat=True).first())) from error
    metrics.count(metrics.tickets_reopened)
    return ticket


def edit_ticket(
    *,
    actor: User,
    ticket_id: UUID,
    subject: str | None = None,
    priority: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    version: int | None = None,
    now: datetime,
) -> Ticket:
    """Change what is named; `metadata` by key (None removes one), never `timeline`, which is the system's.

    Raises: NotFound, ValidationFailed, VersionConflict.
    """
    tenant_id, state = lock_ticket(actor, ticket_id)
    _check_version(state, version)
    changed = []
    if subject is not None and subject != state.subject:
        state.subject = subject
        changed.append("subject")
    if priority is not None and priority != state.priority:
        state.note_entry("PRIORITY_CHANGED", at=now, actor_id=actor.pk, from_=state.priority, to=priority)
        state.priority = priority
        changed.append("priority")
    if metadata:
        _patch_metadata(state.id, metadata)
        changed.append("metadata")
    if not changed:
        return _row(state)
    Ticket.objects.for_tenant(tenant_id).filter(pk=state.id).update(subject=state.subject, priority=state.priority)
    return save_state(tenant_id, state, changed, now)


def lock_ticket(actor: User, ticket_id: UUID, *, taking: bool = False) -> tuple[UUID, TicketState]:
    """Lock a ticket that the actor may see; (its tenant, the row). Raises: NotFound.

    `taking`: one that they would see if nobody had it, so that who loses the race learns who won.
    """
    # The platform's superuser belongs to no tenant and acts in that of the ticket.
    tenant_id = actor.tenant_id or Ticket.objects.filter(pk=ticket_id).values_list("tenant_id", flat=True).first()
    state = lock_tickets(tenant_id=tenant_id, ids=[ticket_id]).get(ticket_id) if tenant_id else None
    viewer = load_viewer(actor)
    if tenant_id is None or state is None:
        raise NotFound("Atendimento não encontrado.")
    if not viewer.sees(state.queue_id, state.assignee_id) and not (taking and viewer.sees(state.queue_id, None)):
        raise NotFound("Atendimento não encontrado.")
    return tenant_id, state


# --- Steps -------------------------------------------------------------------------------------------------------


def check_action(state: TicketState, action: str, version: int | None) -> None:
    """Raises: UnableToAct where the ticket's state does not allow it, VersionConflict."""
    if action not in ACTIONS[state.status]:
        raise UnableToAct(**{"from": state.status, "action": action})
    _check_version(state, version)


def _check_version(state: TicketState, version: int | None) -> None:
    if version is not None and version != state.version:
        raise VersionConflict(version=state.version)


def _lost(state: TicketState) -> UnableToTake:
    metrics.assign_conflicts.inc()
    assigned = TicketEvent.objects.filter(ticket_id=state.id, kind=TicketEvent.Kind.ASSIGNED).order_by("-seq")
    at = assigned.values_list("at", flat=True).first()
    owner = User.objects.filter(pk=state.assignee_id).first() if state.assignee_id else None
    return UnableToTake(
        f"{owner.name} já assumiu este atendimento." if owner else "Ninguém está com este atendimento.",
        assignee={"id": str(owner.pk), "name": owner.name} if owner else None,
        assignedAt=at.isoformat() if at and owner else None,
    )


def _assign(tenant_id: UUID, actor: User, state: TicketState, target: User, now: datetime) -> Ticket:
    if target.tenant_id != tenant_id:
        raise UnableToAssign
    if target == actor and not actor.may("tickets:assign-others") and not _agents_may_take(actor):
        raise NotAllowed("Nesta empresa, um supervisor distribui os atendimentos.")
    before = state.assignee_id
    state.note_entry("ASSIGNED", at=now, actor_id=actor.pk, from_=_name(before), to=target.name)
    state.status, state.assignee_id = "ASSIGNED", target.pk
    ticket = save_state(tenant_id, state, ["status", "assigneeId"], now)
    if target != actor or before not in (None, actor.pk):
        _audit(
            tenant_id, actor, "ticket.assigned", ticket,
            {"assigneeId": [str(before) if before else None, str(target.pk)]},
        )  # fmt: skip
    return ticket


def _agents_may_take(actor: User) -> bool:
    return actor.tenant is None or bool(actor.tenant.settings.get("agentsMayTake", True))


def _find_member(tenant_id: UUID, user_id: UUID, queue_id: UUID) -> User:
    if not _is_member(tenant_id, user_id, queue_id):
        raise UnableToAssign
    return User.objects.get(pk=user_id)


def _is_member(tenant_id: UUID, user_id: UUID, queue_id: UUID) -> bool:
    """Whether a person is active in the tenant and may see the queue."""
    user = User.objects.filter(pk=user_id, tenant_id=tenant_id, is_active=True).first()
    if user is None or user.is_supervisor:
        return user is not None
    memberships = QueueMembership.objects.filter(user=user).values_list("queue_id", "visibility")
    return any(queue == queue_id or visibility == ALL for queue, visibility in memberships)


def _find_reason(tenant_id: UUID, queue_id: UUID, code: str, note: str) -> CloseReason:
    reasons = CloseReason.objects.for_tenant(tenant_id).filter(is_active=True)
    if not code and not Queue.objects.get(pk=queue_id).require_close_reason:
        plain: CloseReason | None = reasons.filter(outcome="RESOLVED", requires_note=False).first()
        if plain is not None:
            return plain
    reason: CloseReason | None = reasons.filter(code=code).first()
    if reason is None:
        raise ValidationFailed([{"field": "reasonCode", "message": "Escolha um motivo ativo."}])
    if reason.requires_note and not note.strip():
        raise ValidationFailed([{"field": "note", "message": f"O motivo {reason.label} pede uma nota."}])
    return reason


def _patch_metadata(ticket_id: UUID, patch: Mapping[str, Any]) -> None:
    if "timeline" in patch:
        raise ValidationFailed([{"field": "metadata.timeline", "message": "Este campo é só de leitura."}])
    kept = {key: value for key, value in patch.items() if value is not None}
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE tickets_ticket SET metadata = (metadata || %s::jsonb) - %s::text[] WHERE id = %s
               RETURNING length(metadata::text)""",
            [dumps(kept), [key for key in patch if key not in kept], ticket_id],
        )
        if cursor.fetchone()[0] > MOST_METADATA:
            raise ValidationFailed([{"field": "metadata", "message": "Os metadados passam de 64 KB."}])


def save_state(tenant_id: UUID, state: TicketState, changed: list[str], now: datetime) -> Ticket:
    """Write the row and its entries, tell ticket.updated, let the channel follow; the row as it is now."""
    save_tickets(tenant_id=tenant_id, states=[state])
    announce_ticket(tenant_id=tenant_id, state=state, changed=changed, now=now)
    ticket = _row(state)
    get_transport(ticket.channel).ticket_changed(tenant_id=tenant_id, ticket_id=state.id, now=now)
    return ticket


def _row(state: TicketState) -> Ticket:
    related = ("contact", "queue", "assignee", "close_reason", "closed_by")
    row: Ticket = Ticket.objects.select_related(*related).get(pk=state.id)
    return row


def _name(user_id: UUID | None) -> str:
    """How the history names a person: it is read later, when the account may have another name or be gone."""
    return User.objects.values_list("name", flat=True).get(pk=user_id) if user_id else ""


def _audit(tenant_id: UUID, actor: User, action: str, ticket: Ticket, changes: dict[str, Any]) -> None:
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    write_audit(tenant_id=tenant_id, actor=actor, action=action, target=ticket, changes=changes, request_id=request_id)
