"""What the state of things allows: the refusals with 409, 422 and 501 (spec/outbound.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.errors import ValidationFailed
from tickets.models import Message
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
    """What a door was asked. `session` is a line to use instead of the ticket's own, `to` one of several phones."""

    author: User | None
    payload: dict[str, Any]
    source: str = Message.Source.AGENT
    idempotency_key: str | None = None
    expected_last_message_id: UUID | None = None
    force: bool = False
    when_unavailable: str = "fail"
    external_reference: str | None = None
    session: Line | None = None
    to: str | None = None
    scheduled_at: datetime | None = None
    cancel_if_customer_replies: bool = True


def check_wish(
    transport: Transport, wish: Wish, state: TicketState, line: Line, contact: Recipient, content: Payload
) -> None:
    """Raises: ValidationFailed, and the refusals of a state that does not allow this message now."""
    said = Message.objects.for_tenant(line.tenant_id).filter(contact_id=contact.id)
    if content.reply_to is not None and not said.filter(pk=content.reply_to).exists():
        raise ValidationFailed([{"field": "replyTo", "message": "Não é uma mensagem deste contato."}])
    seen = _find_seen(wish, state)
    check_ticket(state=state, contact=contact, author=wish.author, source=wish.source)
    kind = str(wish.payload.get("type", "text")).strip().lower()
    if kind not in line.capabilities.types:
        raise UnsupportedOperation(type=kind, supported=sorted(line.capabilities.types))
    transport.check_recipient(line=line, identities=contact.identities, is_group=contact.is_group)
    if seen is not None:
        _check_collision(wish, seen, state)
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


def _find_seen(wish: Wish, state: TicketState) -> int | None:
    """The position of the last message that the sender saw, 0 for one of an earlier ticket; None where nobody asks."""
    if wish.expected_last_message_id is None or wish.force:
        return None
    rows = Message.objects.filter(pk=wish.expected_last_message_id, contact_id=state.contact_id)
    seen = rows.values("ticket_id", "position").first()
    if seen is None:
        raise ValidationFailed([{"field": "expectedLastMessageId", "message": "Não é uma mensagem desta conversa."}])
    return int(seen["position"]) if seen["ticket_id"] == state.id else 0


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
