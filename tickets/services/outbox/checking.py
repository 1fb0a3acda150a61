"""What the state of things allows: the refusals with 409, 422 and 501 (spec/outbound.md section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.errors import DomainError, ValidationFailed
from tickets.models import Message, Ticket
from tickets.models.tickets import LIVE
from tickets.payloads import Payload
from tickets.services.outbox.recipients import Recipient
from tickets.services.outbox.refusals import (
    ContactBlocked,
    InstanceDisconnected,
    NewerMessage,
    NotAssignee,
    TicketClosed,
    UnsupportedOperation,
)
from tickets.services.shapes import iso
from tickets.services.state import TicketState
from tickets.transports import Line, Transport

_SHOWN_NEWER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a door was asked. `session` is a line to use instead of the ticket's own, `to` the phone to write to.

    `header_key` is the idempotency key of the header: the one of the body must be the same.
    """

    author: User | None
    payload: dict[str, Any]
    source: str = Message.Source.AGENT
    idempotency_key: str | None = None
    header_key: str | None = None
    expected_last_message_id: UUID | None = None
    force: bool = False
    when_unavailable: str = "fail"
    external_reference: str | None = None
    session: Line | None = None
    to: str | None = None
    scheduled_at: datetime | None = None
    cancel_if_customer_replies: bool = True


def check_references(
    wish: Wish, content: Payload, *, tenant_id: UUID, contacts: Sequence[UUID] | QuerySet[Ticket, Any]
) -> Message | None:
    """The last message that the sender saw, None where nobody asks. It may be of another ticket of the contact.

    Raises: ValidationFailed for a message that is not of these contacts, or not there.
    """
    said = Message.objects.for_tenant(tenant_id).filter(contact_id__in=contacts)
    problems = []
    if content.reply_to is not None and not said.filter(pk=content.reply_to).exists():
        problems.append({"field": "replyTo", "message": "Não é uma mensagem deste contato."})
    seen: Message | None = None
    if wish.expected_last_message_id is not None and not wish.force:
        seen = said.filter(pk=wish.expected_last_message_id).only("id", "ticket_id", "position").first()
        if seen is None:
            problems.append({"field": "expectedLastMessageId", "message": "Não é uma mensagem desta conversa."})
    if problems:
        raise ValidationFailed(problems)
    return seen


def check_address(transport: Transport, line: Line, contact: Recipient) -> None:
    """Raises: what the channel says of an address that nobody can have (400); check_wish refuses the rest."""
    try:
        transport.check_recipient(line=line, identities=contact.identities, is_group=contact.is_group)
    except DomainError as error:
        if error.status == ValidationFailed.status:
            raise


def check_wish(
    transport: Transport, wish: Wish, state: TicketState, line: Line, contact: Recipient, seen: Message | None
) -> None:
    """Raises: the refusals of a state that does not allow this message now."""
    check_ticket(state=state, contact=contact, author=wish.author, source=wish.source)
    kind = str(wish.payload.get("type", "text")).strip().lower()
    if kind not in line.capabilities.types:
        raise UnsupportedOperation(type=kind, supported=sorted(line.capabilities.types))
    transport.check_recipient(line=line, identities=contact.identities, is_group=contact.is_group)
    if seen is not None:
        _check_collision(wish, _place_of(seen, state), state)
    # What is scheduled leaves later: how its line is now tells nothing.
    if not line.connected and wish.when_unavailable != "queue" and wish.scheduled_at is None:
        raise InstanceDisconnected(status=line.status, connected=False, instanceId=line.name)


def check_ticket(*, state: TicketState, contact: Recipient, author: User | None, source: str) -> None:
    """Raises: TicketClosed, ContactBlocked, NotAssignee."""
    if state.status not in LIVE:
        raise TicketClosed(status=state.status, closedAt=iso(state.closed_at))
    if contact.is_blocked:
        raise ContactBlocked
    if author is None or source != Message.Source.AGENT or state.assignee_id == author.pk or author.tenant is None:
        return
    if author.tenant.settings.get("onlyAssigneeReplies"):
        assignee = User.objects.get(pk=state.assignee_id) if state.assignee_id else None
        raise NotAssignee(assignee={"id": str(assignee.pk), "name": assignee.name} if assignee else None)


def _place_of(seen: Message, state: TicketState) -> int:
    """How far the sender has seen this ticket: of another ticket's message, what stood here when that was made."""
    if seen.ticket_id == state.id:
        return seen.position
    earlier = Message.objects.filter(ticket_id=state.id, id__lt=seen.pk).order_by("-position")
    return earlier.values_list("position", flat=True).first() or 0


def _check_collision(wish: Wish, seen: int, state: TicketState) -> None:
    """Refuse when somebody else answered after the last message that the sender saw; the ticket's row is locked.

    What is only scheduled has not been said yet.
    """
    newer = (
        Message.objects.filter(ticket_id=state.id, position__gt=seen, direction=Message.Direction.OUTBOUND)
        .exclude(status__in=[Message.Status.CANCELED, Message.Status.FAILED, Message.Status.SCHEDULED])
        .select_related("author")
        .order_by("position")
    )
    if wish.author is not None:
        newer = newer.exclude(author=wish.author)
    rows = list(newer[:_SHOWN_NEWER])
    if rows:
        metrics.outbound_collisions.inc()
        last = Message.objects.filter(ticket_id=state.id).order_by("-position").values_list("id", flat=True)[0]
        raise NewerMessage(newer=[_brief(row) for row in rows], lastMessageId=str(last))


def _brief(row: Message) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "position": row.position,
        "type": row.type,
        "content": row.content,
        "caption": row.caption,
        "status": row.status,
        "author": {"id": str(row.author.pk), "name": row.author.name} if row.author else None,
        "sentAt": iso(row.sent_at),
    }
