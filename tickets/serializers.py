"""How tickets, threads, notes and queues look from outside. Fields are always listed."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils import timezone
from pydantic import Field

from leadengine.accounts.api.schema import Shape
from leadengine.accounts.models import User
from leadengine.links import sign
from leads.models import Contact
from leads.serializers import ContactShape, LeadShape, TagShape, contact_json, lead_json, tag_json
from tickets.models import CloseReason, Draft, Note, Queue, Ticket, TicketEvent
from tickets.policy import Viewer
from tickets.queries import ThreadItem, ThreadMessage, TicketRow
from tickets.services.shapes import MEDIA_LINK, iso, message_json
from tickets.services.state import timeline_of


class PersonShape(Shape):
    id: UUID
    name: str


class TicketContactShape(Shape):
    id: UUID
    name: str
    phone: str | None
    avatar_url: str
    is_group: bool


class TicketQueueShape(Shape):
    id: UUID
    name: str
    colour: str


class TicketLeadShape(Shape):
    id: UUID
    stage_id: UUID
    stage_name: str
    value: str | None


class TimelineShape(Shape):
    first_inbound_at: datetime | None
    last_inbound_at: datetime | None
    first_outbound_at: datetime | None
    last_outbound_at: datetime | None
    last_direction: str | None
    last_message_at: datetime | None
    message_count: int
    inbound_count: int
    outbound_count: int
    unanswered_count: int
    waiting_since: datetime | None
    first_response_seconds: int | None


class TicketShape(Shape):
    """With `include`, contact and lead hold all their fields."""

    id: UUID
    number: int
    protocol: str
    status: str
    priority: str
    subject: str
    contact: TicketContactShape | ContactShape
    queue: TicketQueueShape
    assignee: PersonShape | None
    session_id: UUID | None
    channel: str
    lead: TicketLeadShape | LeadShape | None
    tags: list[TagShape]
    unread: int
    snoozed_until: datetime | None
    close_reason: str | None
    closed_at: datetime | None
    timeline: TimelineShape
    last_message_preview: str
    version: int
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class MediaShape(Shape):
    """`url` opens a ready file for a short time, without a login."""

    id: UUID | None
    url: str | None
    state: str
    reason: str
    media_type: str
    mime_type: str
    file_name: str
    size: int | None
    seconds: int | None
    width: int | None
    height: int | None
    page_count: int | None
    voice: bool


class ReactionShape(Shape):
    actor: str
    emoji: str
    at: datetime


class MessageShape(Shape):
    """A message that its author deleted keeps its text for supervisors only."""

    id: UUID
    ticket_id: UUID
    contact_id: UUID
    session_id: UUID | None
    position: int
    direction: str
    type: str
    content: str
    caption: str
    version: int
    status: str
    source: str
    author: PersonShape | None
    sender: dict[str, Any] | None
    reply_to_id: UUID | None
    resend_of_id: UUID | None
    external_id: str | None
    idempotency_key: str | None
    sent_at: datetime
    received_at: datetime | None
    delivered_at: datetime | None
    read_at: datetime | None
    played_at: datetime | None
    failed_at: datetime | None
    scheduled_at: datetime | None
    edited_at: datetime | None
    revoked_at: datetime | None
    wait_reason: str | None
    not_before: datetime | None
    error: dict[str, Any] | None
    media: MediaShape | None
    reactions: list[ReactionShape]
    metadata: dict[str, Any]


class NoteShape(Shape):
    id: UUID
    ticket_id: UUID
    seq: int
    author: PersonShape
    body: str
    visibility: str
    mentions: list[Any]
    edited_at: datetime | None
    created_at: datetime


class EventShape(Shape):
    """`from` and `to` are states, or names of people, as they were then."""

    id: UUID
    ticket_id: UUID
    seq: int
    kind: str
    actor: PersonShape | None
    actor_kind: str
    from_: str = Field(alias="from")
    to: str
    reason: str
    at: datetime


class TicketBriefShape(Shape):
    """What a separator in a contact's history says."""

    id: UUID
    number: int
    protocol: str
    status: str
    queue: TicketQueueShape
    assignee: PersonShape | None
    close_reason: str | None
    closed_at: datetime | None


class ThreadItemShape(Shape):
    """One thing in a thread: `kind` says which of the others is set."""

    kind: str
    at: datetime
    ticket: TicketBriefShape | None = None
    message: MessageShape | None = None
    note: NoteShape | None = None
    event: EventShape | None = None


class ThreadShape(Shape):
    items: list[ThreadItemShape]
    states: list[MessageShape]


class ThreadMeta(Shape):
    cursor: str
    more: bool


class DraftShape(Shape):
    kind: str
    body: str
    reply_to_id: UUID | None
    upload_ids: list[UUID]
    updated_at: datetime


class QueueShape(Shape):
    id: UUID
    name: str
    description: str
    colour: str
    is_active: bool
    order_index: int
    is_default: bool
    reopen_window_minutes: int
    response_target_minutes: int
    require_close_reason: bool


class CloseReasonShape(Shape):
    id: UUID
    code: str
    label: str
    outcome: str
    allows_reopen: bool
    requires_note: bool
    is_active: bool
    order_index: int


def ticket_json(row: TicketRow, include: tuple[str, ...] = ()) -> dict[str, Any]:
    """A ticket; `include` may name `contact` (identities and tags prefetched) and `lead`."""
    ticket, contact, lead = row.ticket, row.ticket.contact, row.lead
    timeline = timeline_of(ticket)
    return {
        **_ticket_brief(ticket),
        "priority": ticket.priority,
        "subject": ticket.subject,
        "contact": contact_json(contact)
        if "contact" in include
        else {
            "id": str(contact.pk),
            "name": contact.name,
            "phone": row.phone,
            "avatarUrl": contact.avatar_url,
            "isGroup": contact.kind == Contact.Kind.GROUP,
        },
        "sessionId": str(ticket.session_id) if ticket.session_id else None,
        "channel": ticket.channel,
        "lead": None
        if lead is None
        else lead_json(lead)
        if "lead" in include
        else {
            "id": str(lead.pk),
            "stageId": str(lead.stage_id),
            "stageName": lead.stage.name,
            "value": None if lead.value is None else str(lead.value),
        },
        "tags": [tag_json(tag) for tag in row.tags],
        "unread": row.unread,
        "snoozedUntil": iso(ticket.snoozed_until),
        "timeline": timeline,
        "lastMessagePreview": ticket.last_message_preview,
        "version": ticket.version,
        "metadata": {**ticket.metadata, "timeline": timeline},
        "createdAt": iso(ticket.created_at),
        "updatedAt": iso(ticket.updated_at),
    }


def thread_message_json(row: ThreadMessage, viewer: Viewer) -> dict[str, Any]:
    """A message of a thread; what its author deleted is for supervisors only."""
    message = row.message
    shown = message_json(
        message,
        media=row.media,
        reactions=[{"actor": one.actor, "emoji": one.emoji, "at": iso(one.at)} for one in row.reactions],
    )
    if row.media is not None and row.media.state == "ready" and row.media.storage_key:
        link = sign(MEDIA_LINK, row.media.pk, now=timezone.now())
        shown["media"]["url"] = f"{reverse('api-media', args=[row.media.pk])}?{link}"
    if message.revoked_at and viewer.is_supervisor:
        shown |= {"content": message.content, "caption": message.caption}
    elif message.revoked_at:
        shown |= {"media": None, "metadata": {}}
    return shown


def thread_item_json(item: ThreadItem, viewer: Viewer) -> dict[str, Any]:
    """One thing of a thread; a separator holds its ticket."""
    shown: dict[str, Any] = {"kind": item.kind, "at": iso(item.at)}
    if item.message is not None:
        shown["message"] = thread_message_json(item.message, viewer)
    elif isinstance(item.entry, Note):
        shown["note"] = note_json(item.entry)
    elif item.entry is not None:
        shown["event"] = event_json(item.entry)
    else:
        shown["ticket"] = _ticket_brief(item.ticket)
    return shown


def note_json(note: Note) -> dict[str, Any]:
    """A note with its author."""
    return {
        "id": str(note.pk),
        "ticketId": str(note.ticket_id),
        "seq": note.seq,
        "author": _person(note.author),
        "body": note.body,
        "visibility": note.visibility,
        "mentions": note.mentions,
        "editedAt": iso(note.edited_at),
        "createdAt": iso(note.created_at),
    }


def event_json(event: TicketEvent) -> dict[str, Any]:
    """A line of a ticket's history, with its actor."""
    return {
        "id": str(event.pk),
        "ticketId": str(event.ticket_id),
        "seq": event.seq,
        "kind": event.kind,
        "actor": _person(event.actor),
        "actorKind": event.actor_kind,
        "from": event.from_value,
        "to": event.to_value,
        "reason": event.reason,
        "at": iso(event.at),
    }


def draft_json(draft: Draft) -> dict[str, Any]:
    """What the caller began to write."""
    return {
        "kind": draft.kind,
        "body": draft.body,
        "replyToId": str(draft.reply_to_id) if draft.reply_to_id else None,
        "uploadIds": draft.upload_ids,
        "updatedAt": iso(draft.updated_at),
    }


def queue_json(queue: Queue) -> dict[str, Any]:
    """A queue and its rules."""
    return {
        "id": str(queue.pk),
        "name": queue.name,
        "description": queue.description,
        "colour": queue.colour,
        "isActive": queue.is_active,
        "orderIndex": queue.order_index,
        "isDefault": queue.is_default,
        "reopenWindowMinutes": queue.reopen_window_minutes,
        "responseTargetMinutes": queue.response_target_minutes,
        "requireCloseReason": queue.require_close_reason,
    }


def close_reason_json(reason: CloseReason) -> dict[str, Any]:
    """Why a ticket may end."""
    return {
        "id": str(reason.pk),
        "code": reason.code,
        "label": reason.label,
        "outcome": reason.outcome,
        "allowsReopen": reason.allows_reopen,
        "requiresNote": reason.requires_note,
        "isActive": reason.is_active,
        "orderIndex": reason.order_index,
    }


def _ticket_brief(ticket: Ticket) -> dict[str, Any]:
    return {
        "id": str(ticket.pk),
        "number": ticket.number,
        "protocol": ticket.protocol,
        "status": ticket.status,
        "queue": {"id": str(ticket.queue_id), "name": ticket.queue.name, "colour": ticket.queue.colour},
        "assignee": _person(ticket.assignee),
        "closeReason": ticket.close_reason.code if ticket.close_reason else None,
        "closedAt": iso(ticket.closed_at),
    }


def _person(user: User | None) -> dict[str, str] | None:
    return {"id": str(user.pk), "name": user.name} if user else None
