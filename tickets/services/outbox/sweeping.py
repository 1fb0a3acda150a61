"""The sweeper: what a lost worker or a lost wake-up left behind (spec/outbound.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from leadengine import metrics
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.sql import dumps, loads
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.outbox.circuit import known_circuits
from tickets.services.outbox.holding import free_held
from tickets.services.outbox.scheduling import release_scheduled
from tickets.services.outbox.settling import save_attempt
from tickets.services.outbox.verdicts import EXPIRED, expired
from tickets.services.outbox.waking import wake_sender
from tickets.transports import get_transport

CHANNEL = "WHATSAPP"
WORKER_LOST = {
    "code": "WORKER_LOST",
    "message": "O envio foi interrompido: a mensagem pode ter saído.",
    "retryable": False,
}
_CHANGED = """
WITH changed AS (
    UPDATE tickets_message m SET {sets}, version = m.version + 1
    WHERE m.id = ANY(ARRAY(SELECT m.id FROM tickets_message m WHERE {rule} ORDER BY m.id FOR UPDATE))
    RETURNING m.*
)
SELECT c.tenant_id, c.ticket_id, t.queue_id, t.assignee_id, c.id, c.position, c.version, c.attempts, c.claim_token,
    c.claimed_at, c.source, c.type, c.error, c.session_id
FROM changed c JOIN tickets_ticket t ON t.id = c.ticket_id
"""


def sweep_outbox(*, now: datetime) -> int:
    """End what waits for nobody and wake the sessions with due rows; returns how many were woken."""
    release_scheduled(now=now)
    with service_scope("end what lost its worker"):
        _end_lost(now)
    with service_scope("end what waited too long"):
        _end_expired(now)
    _free_closed(now)
    with service_scope("wake what is due"):
        with connection.cursor() as cursor:
            cursor.execute(
                """SELECT DISTINCT session_id FROM tickets_message
                   WHERE status = 'QUEUED' AND (not_before IS NULL OR not_before <= %s)
                       AND wait_reason IS DISTINCT FROM 'RISK_PAUSED'""",
                [now],
            )
            sessions = [row[0] for row in cursor.fetchall()]
        for session_id in sessions:
            wake_sender(session_id)
    return len(sessions)


def _end_lost(now: datetime) -> None:
    """SENDING past its lease: its worker is gone, and the message may have left."""
    sets, rule = "status = 'UNCONFIRMED', error = %s", "m.status = 'SENDING' AND m.lease_until < %s"
    for row in change_rows(sets, rule, [dumps(WORKER_LOST), now]):
        save_attempt(
            tenant_id=row.place.tenant_id, message_id=row.place.message_id, number=row.attempts,
            claim_token=row.claim_token, claimed_at=row.claimed_at, finished_at=now, outcome="UNCONFIRMED",
            code="WORKER_LOST",
        )  # fmt: skip
        changes = {"status": "UNCONFIRMED", "error": WORKER_LOST}
        announce_change(place=row.place, version=row.version, changes=changes, now=now)
        metrics.count(metrics.outbound.labels(origin=row.source, type=row.type, status="unconfirmed"))
        metrics.count(metrics.outbound_attempts.labels(code="WORKER_LOST"))


def _end_expired(now: datetime) -> None:
    """QUEUED past the maximum age: it ends with the cause of its wait, and is not sent hours later by surprise."""
    sets = """status = 'FAILED', failed_at = %s, wait_reason = NULL, not_before = NULL,
        error = %s::jsonb || jsonb_build_object('cause', coalesce(m.error ->> 'code', m.wait_reason))"""
    rule = "m.status = 'QUEUED' AND coalesce(m.received_at, m.created_at) < %s"
    oldest = now - timedelta(seconds=settings.OUTBOUND_MAX_AGE_SECONDS)
    transport = get_transport(CHANNEL)
    rows = change_rows(sets, rule, [now, dumps(expired(None)), oldest])
    lines = {session_id: transport.line(session_id) for session_id in {row.session_id for row in rows}}
    for row in rows:
        changes = {"status": "FAILED", "failed_at": now, "wait_reason": None, "not_before": None, "error": row.error}
        announce_change(place=row.place, version=row.version, changes=changes, now=now)
        metrics.count(metrics.outbound.labels(origin=row.source, type=row.type, status="failed"))
        line = lines[row.session_id]
        name = line.name if line else ""
        metrics.count(metrics.messages_failed.labels(instance_name=name, type=row.type, reason=EXPIRED))


def _free_closed(now: datetime) -> None:
    """What waits for a circuit that is closed: Redis was flushed, and nobody will say so."""
    with service_scope("find what waits for a circuit"), connection.cursor() as cursor:
        cursor.execute(
            """SELECT DISTINCT session_id, tenant_id FROM tickets_message
               WHERE status = 'QUEUED' AND wait_reason = 'CIRCUIT_OPEN' AND not_before > %s""",
            [now],
        )
        waiting = cursor.fetchall()
    circuits = known_circuits(now=now) if waiting else None
    if circuits is None:
        return
    for session_id, tenant_id in waiting:
        if session_id not in circuits:
            with tenant_scope(tenant_id):
                free_held(session_id=session_id, now=now)


@dataclass(frozen=True, slots=True)
class _Swept:
    place: Place
    version: int
    attempts: int
    claim_token: UUID
    claimed_at: datetime
    source: str
    type: str
    error: dict[str, Any] | None
    session_id: UUID


def change_rows(sets: str, rule: str, parameters: list[Any]) -> list[_Swept]:
    """Change all rows `m` that fit a rule; what is needed to tell of each. Both are ours, never a caller's words."""
    with connection.cursor() as cursor:
        cursor.execute(_CHANGED.format(sets=sets, rule=rule), parameters)
        return [
            _Swept(Place(*row[:6]), *row[6:10], row[10].lower(), row[11].lower(), loads(row[12]), row[13])  # type: ignore[call-arg]
            for row in cursor.fetchall()
        ]
