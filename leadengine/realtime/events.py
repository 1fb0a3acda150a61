"""The base of every realtime event: typed, closed, sent after commit (spec/inbox.md section 20).

Each app defines its events once in its own `events.py`; the wire is camelCase.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from leadengine.ids import uuid7

# Who may get an event: members who see the ticket; subscribers of the ticket; all members; supervisors and admins;
# supervisors and the owner of a session.
Audience = Literal["viewers", "subscribers", "tenant", "supervisors", "owner"]


class Payload(BaseModel):
    """A part of an event. A field that was not declared fails at construction."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Event(Payload):
    """One realtime event. `facets` travels beside it and decides who gets it; it is never shown."""

    name: ClassVar[str]
    audience: ClassVar[Audience]

    event_id: UUID = Field(default_factory=uuid7)
    tenant_id: UUID
    at: datetime

    def short(self) -> dict[str, Any] | None:
        """What members outside the audience may see of an `owner` event; None: nothing."""
        return None


class Facets(BaseModel):
    """What the visibility policy needs to know of an event, before and after the change."""

    model_config = ConfigDict(extra="forbid")

    ticket_id: UUID | None = None
    queue_id: UUID | None = None
    assignee_id: UUID | None = None
    previous_queue_id: UUID | None = None
    previous_assignee_id: UUID | None = None
    owner_id: UUID | None = None


class PresentUser(Payload):
    id: UUID
    name: str
    initials: str
    state: Literal["viewing", "idle", "typing"]
    since: datetime


class PresenceUpdated(Event):
    """Who looks at a ticket now, or that a person's availability changed."""

    name = "presence.updated"
    audience = "subscribers"

    ticket_id: UUID | None = None
    users: list[PresentUser] | None = None
    ttl_seconds: int | None = None
    user_id: UUID | None = None
    availability: str | None = None
