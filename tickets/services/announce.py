"""The events of tickets and messages, made from what the services just wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connection

from leadengine.realtime.broadcast import broadcast, together
from leadengine.realtime.events import Facets
from leads.events import LeadUpdated
from leads.services import LeadChange
from tickets.events import (
    BrokerReference,
    BrokerTimestamps,
    MessageBrief,
    MessageMetadata,
    MessagesNew,
    MessageUpdated,
    TicketEntry,
    TicketFields,
    TicketMessage,
    TicketUpdated,
)
from tickets.events import (
    TicketState as TicketStatePayload,
)
from tickets.services.shapes import iso, media_json, preview_of
from tickets.services.state import TicketState

if TYPE_CHECKING:
    from tickets.services.arrivals import NewMessage


@dataclass(frozen=True, slots=True)
class Place:
    """Where a changed row stands, and who may hear of it."""

    tenant_id: UUID
    ticket_id: UUID
    queue_id: UUID
    assignee_id: UUID | None
    message_id: UUID
    position: int


@together()
def announce_arrivals(
    *, tenant_id: UUID, rows: Sequence[NewMessage], leads: Sequence[LeadChange], now: datetime
) -> None:
    """messages.new and ticket.message per message, ticket.updated per ticket, lead.updated per lead."""
    for row in rows:
        arrival, ticket = row.arrival, row.ticket
        inbound = arrival.direction == "INBOUND"
        status, text = ("RECEIVED" if inbound else "SENT"), arrival.text
        content, caption = ("", text) if arrival.file else (text, "")
        facets = facets_of(ticket)
        broadcast(
            MessagesNew(
                tenant_id=tenant_id, at=now, ticket_id=ticket.id, ticket_number=ticket.number,
                contact_id=row.contact.id, contact_name=row.contact.name, session_id=arrival.session_id,
                queue_id=ticket.queue_id, assignee_id=ticket.assignee_id, message_id=row.id,
                provider_message_id=arrival.external_id, position=row.position, direction=arrival.direction,
                type=arrival.type, preview=preview_of(arrival.type, text), sent_at=arrival.sent_at,
                received_at=arrival.received_at, is_new_ticket=ticket.is_new, ticket_status=ticket.status,
                ticket_updated_at=now,
                message=MessageBrief(
                    id=row.id, direction=arrival.direction, type=arrival.type, content=content, caption=caption,
                    status=status, sent_at=arrival.sent_at, sender=arrival.sender,
                ),
            ),
            facets,
        )  # fmt: skip
        broadcast(
            TicketMessage(
                tenant_id=tenant_id, at=now, ticket_id=ticket.id, position=row.position,
                message={
                    "id": str(row.id), "ticketId": str(ticket.id), "contactId": str(row.contact.id),
                    "sessionId": str(arrival.session_id), "position": row.position, "direction": arrival.direction,
                    "type": arrival.type, "content": content, "caption": caption, "version": 0, "status": status,
                    "source": "CUSTOMER" if inbound else "PHONE", "author": None, "sender": arrival.sender,
                    "replyToId": str(row.reply_to_id) if row.reply_to_id else None,
                    "externalId": arrival.external_id, "sentAt": iso(arrival.sent_at),
                    "receivedAt": iso(arrival.received_at), "media": media_json(arrival.file), "reactions": [],
                },
                metadata=MessageMetadata(
                    broker=BrokerReference(
                        provider="whatsapp", message_id=arrival.external_id, client_message_id=None,
                        timestamps=BrokerTimestamps(sent=arrival.sent_at, received=arrival.received_at, processed=now),
                    ),
                    media=media_json(arrival.file), location=row.metadata.get("location"),
                    contacts=row.metadata.get("contacts"),
                ),
                timeline=row.timeline,
                ticket=TicketStatePayload(
                    status=ticket.status, assignee_id=ticket.assignee_id, version=ticket.version
                ),
            ),
            facets,
        )  # fmt: skip
    for ticket in {row.ticket.id: row.ticket for row in rows}.values():
        announce_ticket(tenant_id=tenant_id, state=ticket, changed=["timeline"], now=now)
    for lead in leads:
        broadcast(
            LeadUpdated(
                tenant_id=tenant_id, at=now, lead_id=lead.lead_id, contact_id=lead.contact_id,
                change="created" if lead.created else "activity", stage_id=lead.stage_id, status=lead.status,
                rank=lead.rank, last_contact_at=lead.last_contact_at, activity="WHATSAPP_REPLIED",
                version=lead.version,
            )
        )  # fmt: skip


def announce_ticket(
    *, tenant_id: UUID, state: TicketState, changed: list[str], now: datetime, tags: Sequence[str] = ()
) -> None:
    """ticket.updated: the present fields, the timeline keys that changed, and the last new entry of its history."""
    entry = state.entries[-1] if state.entries else None
    broadcast(
        TicketUpdated(
            tenant_id=tenant_id, at=now, ticket_id=state.id, number=state.number, version=state.version,
            changed=changed,
            ticket=TicketFields(
                status=state.status, priority=state.priority, queue_id=state.queue_id,
                assignee_id=state.assignee_id, tags=list(tags), snoozed_until=state.snoozed_until,
                close_reason=str(state.close_reason_id) if state.close_reason_id else None, subject=state.subject,
            ),
            timeline=state.timeline_delta(),
            entry=TicketEntry(
                seq=entry.seq, kind=entry.kind, actor=str(entry.actor_id or "system"), from_=entry.from_,
                to=entry.to, reason=entry.reason,
            )
            if entry
            else None,
        ),
        facets_of(state),
    )  # fmt: skip


def announce_message(
    *,
    tenant_id: UUID,
    message_id: UUID,
    ticket_id: UUID,
    position: int,
    version: int,
    changes: dict[str, Any],
    now: datetime,
) -> None:
    """message.updated with only what changed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT queue_id, assignee_id FROM tickets_ticket WHERE id = %s", [ticket_id])
        queue_id, assignee_id = cursor.fetchone()
    broadcast(
        MessageUpdated(
            tenant_id=tenant_id, at=now, ticket_id=ticket_id, message_id=message_id, position=position,
            version=version, changes=changes,
        ),
        Facets(ticket_id=ticket_id, queue_id=queue_id, assignee_id=assignee_id),
    )  # fmt: skip


def announce_change(*, place: Place, version: int, changes: Mapping[str, Any], now: datetime) -> None:
    """message.updated with columns (snake_case) that changed; dates become ISO."""
    wire = {_WIRE.get(name, name): iso(v) if isinstance(v, datetime) else v for name, v in changes.items()}
    broadcast(
        MessageUpdated(
            tenant_id=place.tenant_id, at=now, ticket_id=place.ticket_id, message_id=place.message_id,
            position=place.position, version=version, changes=wire,
        ),
        Facets(ticket_id=place.ticket_id, queue_id=place.queue_id, assignee_id=place.assignee_id),
    )  # fmt: skip


def facets_of(state: TicketState) -> Facets:
    """What the visibility policy needs to know of a ticket, before and after."""
    moved = state.queue_id != state.previous_queue_id or state.assignee_id != state.previous_assignee_id
    return Facets(
        ticket_id=state.id,
        queue_id=state.queue_id,
        assignee_id=state.assignee_id,
        previous_queue_id=state.previous_queue_id if moved else None,
        previous_assignee_id=state.previous_assignee_id if moved else None,
    )


_WIRE = {
    "wait_reason": "waitReason",
    "not_before": "notBefore",
    "sent_at": "sentAt",
    "failed_at": "failedAt",
    "external_id": "externalId",
    "delivered_at": "deliveredAt",
    "read_at": "readAt",
    "played_at": "playedAt",
    "dismissed_at": "dismissedAt",
    "scheduled_at": "scheduledAt",
}
