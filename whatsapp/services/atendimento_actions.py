"""Pausing, resuming and closing an atendimento: its ticket leads, and the row follows in the same transaction.

Rule: spec/sessions.md section 9. Everything runs in the caller's scope and transaction.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from leadengine.accounts.models import User
from leadengine.errors import DomainError, NotFound
from tickets.models import CloseReason, Ticket
from tickets.services.lifecycle import close_ticket, snooze_ticket, wake_ticket
from whatsapp.models import WhatsAppAtendimento


class UnableToFollow(DomainError):
    """Este atendimento não está ligado a uma conversa aberta."""

    code = "INVALID_TRANSITION"
    status = 409


def pause_atendimento(*, atendimento_id: UUID, actor: User, now: datetime) -> Ticket:
    """Let its ticket rest until the customer writes again. Raises: NotFound, UnableToFollow, UnableToAct."""
    return snooze_ticket(actor=actor, ticket_id=_ticket_of(atendimento_id), until=None, now=now)


def resume_atendimento(*, atendimento_id: UUID, actor: User, now: datetime) -> Ticket:
    """Wake its ticket. Raises: NotFound, UnableToFollow, UnableToAct."""
    return wake_ticket(actor=actor, ticket_id=_ticket_of(atendimento_id), now=now)


def close_atendimento(*, atendimento_id: UUID, actor: User, now: datetime, reason_code: str = "") -> Ticket:
    """End its ticket, with the first plain reason unless one is named.

    Raises: NotFound, UnableToFollow, UnableToAct, ValidationFailed.
    """
    code = reason_code or _plain_reason(actor)
    return close_ticket(actor=actor, ticket_id=_ticket_of(atendimento_id), reason_code=code, now=now)


def _plain_reason(actor: User) -> str:
    """There is no dialog to ask for one here, whatever the queue requires."""
    plain = CloseReason.objects.filter(is_active=True, outcome="RESOLVED", requires_note=False)
    rows = plain.for_tenant(actor.tenant_id) if actor.tenant_id else plain
    return rows.values_list("code", flat=True).first() or ""


def _ticket_of(atendimento_id: UUID) -> UUID:
    row = WhatsAppAtendimento.objects.filter(pk=atendimento_id).only("status", "ticket_id").first()
    if row is None:
        raise NotFound("Atendimento não encontrado.")
    if row.ticket_id is None or row.status == WhatsAppAtendimento.Status.FECHADO:
        raise UnableToFollow
    ticket_id: UUID = row.ticket_id
    return ticket_id
