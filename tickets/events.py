"""Realtime events of tickets and messages (spec/inbox.md section 20)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from leadengine.realtime.events import Event, Payload


class MessageBrief(Payload):
    id: UUID
    direction: str
    type: str
    content: str
    caption: str
    status: str
    sent_at: datetime
    sender: dict[str, Any] | None = None


class MessagesNew(Event):
    """A message row exists. For lists and notifications."""

    name = "messages.new"
    audience = "viewers"

    ticket_id: UUID
    ticket_number: int
    contact_id: UUID
    contact_name: str
    session_id: UUID | None
    queue_id: UUID
    assignee_id: UUID | None
    message_id: UUID
    provider_message_id: str | None
    position: int
    direction: str
    type: str
    preview: str
    sent_at: datetime
    received_at: datetime | None
    is_new_ticket: bool
    ticket_status: str
    ticket_updated_at: datetime
    message: MessageBrief


class BrokerTimestamps(Payload):
    sent: datetime | None = None
    received: datetime | None = None
    processed: datetime | None = None


class BrokerReference(Payload):
    provider: str
    message_id: str | None = None
    client_message_id: str | None = None
    timestamps: BrokerTimestamps


class MessageMetadata(Payload):
    broker: BrokerReference
    media: dict[str, Any] | None = None
    location: dict[str, Any] | None = None
    contacts: list[dict[str, Any]] | None = None


class TicketState(Payload):
    status: str
    assignee_id: UUID | None
    version: int


class TicketMessage(Event):
    """This conversation grew. For the open thread."""

    name = "ticket.message"
    audience = "subscribers"

    ticket_id: UUID
    position: int
    message: dict[str, Any]
    metadata: MessageMetadata
    timeline: dict[str, Any]
    ticket: TicketState


class MessageUpdated(Event):
    """A message that exists changed; `changes` holds only what changed. A client ignores a lower version."""

    name = "message.updated"
    audience = "viewers"

    ticket_id: UUID
    message_id: UUID
    position: int
    version: int
    changes: dict[str, Any]


class TicketFields(Payload):
    status: str
    priority: str
    queue_id: UUID
    assignee_id: UUID | None
    tags: list[str]
    snoozed_until: datetime | None
    close_reason: str | None
    subject: str


class TicketEntry(Payload):
    seq: int
    kind: str
    actor: str
    from_: str
    to: str
    reason: str

    model_config = {**Payload.model_config, "alias_generator": lambda name: {"from_": "from"}.get(name, name)}


class TicketUpdated(Event):
    name = "ticket.updated"
    audience = "viewers"

    ticket_id: UUID
    number: int
    version: int
    changed: list[str]
    ticket: TicketFields
    timeline: dict[str, Any]
    entry: TicketEntry | None = None
    removed: bool = False


class TimelineSample(Payload):
    ticket_id: UUID
    changes: dict[str, list[Any]]


class TimelineReconciled(Event):
    """A run over the tenant's timelines has ended. `fields`: in how many tickets each was wrong.

    A change is `{field: [stored, computed]}`; previews are named without their text.
    """

    name = "whatsapp.timeline.reconciled"
    audience = "supervisors"

    run_id: UUID
    trigger: Literal["nightly", "manual"]
    started_at: datetime
    finished_at: datetime
    tickets_checked: int
    tickets_changed: int
    fields: dict[str, int]
    sample: list[TimelineSample]
