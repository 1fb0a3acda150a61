"""The events of the outbox: a row was accepted, a row changed (services/announce.py)."""

from __future__ import annotations

from datetime import datetime

from leadengine.realtime.broadcast import broadcast
from tickets.events import (
    BrokerReference,
    BrokerTimestamps,
    MessageBrief,
    MessageMetadata,
    MessagesNew,
    TicketMessage,
)
from tickets.events import TicketState as TicketStatePayload
from tickets.models import Message, MessageMedia
from tickets.services.announce import Place, announce_change, facets_of
from tickets.services.shapes import media_json, message_json, preview_of
from tickets.services.state import TicketState

__all__ = ["Place", "announce_change", "announce_queued"]


def announce_queued(
    *, ticket: TicketState, message: Message, media: MessageMedia | None, contact_name: str, now: datetime
) -> None:
    """messages.new and ticket.message of a row that the outbox accepted; counters move when it leaves."""
    facets = facets_of(ticket)
    broadcast(
        MessagesNew(
            tenant_id=message.tenant_id, at=now, ticket_id=ticket.id, ticket_number=ticket.number,
            contact_id=message.contact_id, contact_name=contact_name, session_id=message.session_id,
            queue_id=ticket.queue_id, assignee_id=ticket.assignee_id, message_id=message.pk, provider_message_id=None,
            position=message.position, direction=message.direction, type=message.type,
            preview=preview_of(message.type, message.content or message.caption), sent_at=message.sent_at,
            received_at=None, is_new_ticket=ticket.is_new, ticket_status=ticket.status, ticket_updated_at=now,
            message=MessageBrief(
                id=message.pk, direction=message.direction, type=message.type, content=message.content,
                caption=message.caption, status=message.status, sent_at=message.sent_at,
            ),
        ),
        facets,
    )  # fmt: skip
    broadcast(
        TicketMessage(
            tenant_id=message.tenant_id, at=now, ticket_id=ticket.id, position=message.position,
            message=message_json(message, media=media),
            metadata=MessageMetadata(
                broker=BrokerReference(
                    provider="whatsapp", message_id=None, client_message_id=str(message.pk),
                    timestamps=BrokerTimestamps(sent=message.sent_at, processed=now),
                ),
                media=media_json(media), location=message.metadata.get("location"),
                contacts=message.metadata.get("contacts"),
            ),
            timeline=ticket.timeline_delta(),
            ticket=TicketStatePayload(status=ticket.status, assignee_id=ticket.assignee_id, version=ticket.version),
        ),
        facets,
    )  # fmt: skip
