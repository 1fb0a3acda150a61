"""Messages for later: which times are allowed, and what happens when one has come (spec/outbound.md section 10)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from leadengine import metrics
from leadengine.accounts.scopes import service_scope
from leadengine.errors import ValidationFailed
from leadengine.sql import dumps, loads
from tickets.models.tickets import LIVE
from tickets.services.announce import Place, announce_change
from tickets.services.outbox.waking import wake_sender
from tickets.services.withdrawing import TICKET_CLOSED
from tickets.transports import get_transport

CHANNEL = "WHATSAPP"
SOONEST, LATEST = timedelta(seconds=60), timedelta(days=90)
MISSED = {
    "code": "SCHEDULE_MISSED",
    "message": "A mensagem agendada não saiu na hora e já não foi enviada.",
    "retryable": True,
}
_AT_ONCE = 500

# A row whose time has come joins the queue; its age counts from now on. One that comes far too late ends, also when it
# has waited in the queue since (for its line, say): who wrote it did not mean it for that hour.
_COME = """
WITH due AS (
    SELECT s.id, CASE WHEN s.status = 'SCHEDULED' AND NOT t.status = ANY(%(live)s) THEN 'CANCELED'
        WHEN s.scheduled_at < %(late)s THEN 'FAILED' ELSE 'QUEUED' END AS fate
    FROM tickets_message s JOIN tickets_ticket t ON t.id = s.ticket_id
    WHERE s.scheduled_at <= %(now)s AND s.status IN ('SCHEDULED', 'QUEUED')
        AND (s.status = 'SCHEDULED' OR s.scheduled_at < %(late)s)
    ORDER BY s.scheduled_at LIMIT %(most)s FOR UPDATE OF s SKIP LOCKED
), changed AS (
    UPDATE tickets_message m SET status = d.fate, wait_reason = NULL, not_before = NULL, version = m.version + 1,
        received_at = CASE d.fate WHEN 'QUEUED' THEN %(now)s ELSE m.received_at END,
        sent_at = CASE d.fate WHEN 'CANCELED' THEN %(now)s ELSE m.sent_at END,
        failed_at = CASE d.fate WHEN 'FAILED' THEN %(now)s END,
        error = CASE d.fate WHEN 'FAILED' THEN %(missed)s::jsonb END,
        metadata = CASE d.fate WHEN 'CANCELED' THEN m.metadata || %(why)s::jsonb ELSE m.metadata END
    FROM due d WHERE m.id = d.id
    RETURNING m.*
)
SELECT c.tenant_id, c.ticket_id, t.queue_id, t.assignee_id, c.id, c.position, c.version, c.status, c.session_id,
    c.source, c.type, c.metadata
FROM changed c JOIN tickets_ticket t ON t.id = c.ticket_id
"""


def check_time(at: datetime, now: datetime) -> None:
    """Raises: ValidationFailed for a time that is not 60 s to 90 days ahead."""
    if not SOONEST <= at - now <= LATEST:
        raise ValidationFailed([{"field": "scheduledAt", "message": "De 60 segundos a 90 dias a partir de agora."}])


def too_late(now: datetime) -> datetime:
    """What was scheduled for before this moment is not sent any more."""
    return now - timedelta(seconds=settings.OUTBOUND_SCHEDULE_MAX_LATE_SECONDS)


def release_scheduled(*, now: datetime) -> int:
    """Queue the messages of all tenants whose time has come, and wake their senders; returns how many had come.

    Those of an ended ticket are CANCELED; those more than OUTBOUND_SCHEDULE_MAX_LATE_SECONDS late end as FAILED
    `SCHEDULE_MISSED`. Some hundreds at a time, each in a transaction of its own.
    """
    total = 0
    while True:
        with service_scope("release scheduled messages"):
            rows = _take(now)
            _tell(rows, now)
        total += len(rows)
        if len(rows) < _AT_ONCE:
            return total


@dataclass(frozen=True, slots=True)
class _Come:
    place: Place
    version: int
    status: str
    session_id: UUID
    source: str
    type: str
    metadata: dict[str, Any]


def _take(now: datetime) -> list[_Come]:
    parameters: dict[str, Any] = {
        "now": now, "late": too_late(now), "live": list(LIVE), "most": _AT_ONCE, "missed": dumps(MISSED),
        "why": dumps({"canceledBy": TICKET_CLOSED}),
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_COME, parameters)
        return [
            _Come(Place(*row[:6]), row[6], row[7], row[8], row[9].lower(), row[10].lower(), loads(row[11]))
            for row in cursor.fetchall()
        ]


def _tell(rows: list[_Come], now: datetime) -> None:
    transport = get_transport(CHANNEL)
    lines = {row.session_id: transport.line(row.session_id) for row in rows if row.status == "FAILED"}
    for row in rows:
        changes: dict[str, Any] = {"status": row.status, "wait_reason": None, "not_before": None, "error": None}
        if row.status == "FAILED":
            changes |= {"failed_at": now, "error": MISSED}
            line = lines[row.session_id]
            labels = {"instance_name": line.name if line else "", "type": row.type, "reason": MISSED["code"]}
            metrics.count(metrics.messages_failed.labels(**labels))
        elif row.status == "CANCELED":
            changes |= {"sent_at": now, "metadata": row.metadata}
        announce_change(place=row.place, version=row.version, changes=changes, now=now)
        metrics.count(metrics.outbound.labels(origin=row.source, type=row.type, status=row.status.lower()))
    for session_id in {row.session_id for row in rows}:
        wake_sender(session_id)
