"""Realtime events of leads."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from leadengine.realtime.events import Event


class LeadUpdated(Event):
    name = "lead.updated"
    audience = "tenant"

    lead_id: UUID
    contact_id: UUID
    change: Literal["created", "moved", "updated", "activity"]
    stage_id: UUID
    from_stage_id: UUID | None = None
    status: str
    rank: str
    value: Decimal | None = None
    owner_id: UUID | None = None
    last_contact_at: datetime | None = None
    activity: str | None = None
    version: int
