"""Short ways of the tests about how connections are kept: time that passes, what the broker was asked, pairing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope
from tests.outbound import Broker, until
from tests.whatsapp.sessions.conftest import fresh, make, sync
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.services.persistence import saving

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def set_columns(session_id: UUID, **columns: Any) -> None:
    """Make a row be so; nobody notices."""
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=session_id).update(**columns)


def due(session_id: UUID) -> None:
    """The pause before the next attempt is over."""
    set_columns(session_id, next_attempt_at=timezone.now() - timedelta(seconds=1))


def starts(broker: Broker) -> int:
    """How often the broker was asked to start or to create something."""
    asked: dict[str, int] = broker.control("state", method="GET")["requests"]
    return sum(count for call, count in asked.items() if call.endswith("/qr.png") or call == "POST /instances")


def creations(broker: Broker) -> int:
    """How often the broker was asked to create something."""
    return int(broker.control("state", method="GET")["requests"].get("POST /instances", 0))


def at_broker(broker: Broker, session: WhatsAppSession) -> dict[str, Any] | None:
    """The instance of a session as the broker has it."""
    found = {one["id"]: one for one in broker.control("state", method="GET")["instances"]}
    return found.get(session.broker_instance_id)


def scan(broker: Broker, session: WhatsAppSession, phone: str | None = None) -> None:
    """Somebody pairs their phone."""
    broker.control(f"{session.broker_instance_id}/open", {"phone": phone} if phone else {})


def close(broker: Broker, session: WhatsAppSession, code: int) -> None:
    """The link is lost for a reason, and stays so: the phone cannot be reached."""
    broker.behave(session.broker_instance_id or "", offline=True)
    broker.control(f"{session.broker_instance_id}/close", {"statusCode": code})


def connected(broker: Broker, owner: User, name: str = "Vendas", phone: str | None = None) -> WhatsAppSession:
    """A new connection that somebody has paired."""
    session = make(owner, name)
    scan(broker, session, phone)
    becomes(session, "connected")
    return fresh(session)


def becomes(session: WhatsAppSession, status: str) -> WhatsAppSession:
    """Let beat tick until the row has a status."""
    until(lambda: [sync(), fresh(session).status == status][1])
    return fresh(session)


def history(session: WhatsAppSession) -> list[tuple[str, str]]:
    """(status, reason) of each change, oldest first."""
    with service_scope("test"):
        rows = SessionEvent.objects.filter(session=session).order_by("at", "id")
        return list(rows.values_list("new_status", "reason"))
