"""Realtime events of WhatsApp sessions and of the inbound desk."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from leadengine.realtime.events import Event

Change = Literal["created", "status", "qr", "evidence", "settings", "deleted"]


class SessionUpdated(Event):
    """A connection changed. Never a QR code, key or phone in it."""

    name = "whatsapp.session.updated"
    audience = "owner"

    session_id: UUID
    connection_id: str
    session_name: str = Field(alias="name")
    status: str
    connected: bool
    desired_state: str
    version: int
    change: Change
    has_qr: bool
    qr_version: int
    qr_expires_at: datetime | None
    reauth_reason: str | None
    duplicate_reason: str | None
    last_error: dict[str, Any] | None
    evidence: dict[str, Any]
    circuit: dict[str, Any]
    risk_paused: bool
    changed_at: datetime | None

    def short(self) -> dict[str, Any]:
        """What every agent may know of a line: whether an answer can leave (D38)."""
        names = {"session_id", "session_name", "status", "connected", "version"}
        shown = self.model_dump(mode="json", by_alias=True, include=names)
        return {**shown, "circuit": {"state": self.circuit.get("state")}}


class QueueMissing(Event):
    """Messages wait because the tenant has no active queue (D22)."""

    name = "whatsapp.queue.missing"
    audience = "supervisors"

    session_id: UUID
    reason: Literal["NO_ACTIVE_QUEUE"] = "NO_ACTIVE_QUEUE"
    message: str
    waiting_events: int
    oldest_at: datetime
    recoverable: Literal[True] = True
