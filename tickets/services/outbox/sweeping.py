"""The sweeper: what a lost worker or a lost wake-up left behind (spec/outbound.md section 7)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from leadengine import metrics
from leadengine.accounts.scopes import service_scope
from leadengine.sql import dumps, loads
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.outbox.settling import save_attempt
from tickets.services.outbox.verdicts import expired
from tickets.services.outbox.waking import wake_sender

WORKER_LOST = {
    "code": "WORKER_LOST",
    "message": "O envio foi interrompido: a mensagem pode ter saído.",
    "retryable": False,
}
_CHANGED = """
WITH changed AS (
    UPDATE tickets_message m SET {sets}, version = m.version + 1 WHERE {rule}
    RETURNING m.tenant_id, m.ticket_id, m.id, m.position, m.version, m.attempts, m.claim_token, m.claimed_at, m.source,
        m.type, m.error
)
SELECT c.*, t.queue_id, t.assignee_id FROM changed c JOIN tickets_ticket t ON t.id = c.ticket_id
"""


def sweep_outbox(*, now: datetime) -> int:
    """End what waits for nobody and wake the sessions with due rows; returns how many were woken."""
    with service_scope("sweep the outbox"):
        _end_lost(now)
        _end_expired(now)
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
    for row in _change(sets, rule, [dumps(WORKER_LOST), now]):
        place, version, number, token, claimed_at, source, kind, _ = row
        save_attempt(
            tenant_id=place.tenant_id, message_id=place.message_id, number=number, claim_token=token,
            claimed_at=claimed_at, finished_at=now, outcome="UNCONFIRMED", code="WORKER_LOST",
        )  # fmt: skip
        announce_change(place=place, version=version, changes={"status": "UNCONFIRMED", "error": WORKER_LOST}, now=now)
        metrics.count(metrics.outbound.labels(origin=source.lower(), type=kind.lower(), status="unconfirmed"))
        metrics.count(metrics.outbound_attempts.labels(code="WORKER_LOST"))


def _end_expired(now: datetime) -> None:
    """QUEUED past the maximum age: it ends with the cause of its wait, and is not sent hours later by surprise."""
    sets = """status = 'FAILED', failed_at = %s, wait_reason = NULL, not_before = NULL,
        error = %s::jsonb || jsonb_build_object('cause', coalesce(m.error ->> 'code', m.wait_reason))"""
    rule = "m.status = 'QUEUED' AND coalesce(m.received_at, m.created_at) < %s"
    oldest = now - timedelta(seconds=settings.OUTBOUND_MAX_AGE_SECONDS)
    for row in _change(sets, rule, [now, dumps(expired(None)), oldest]):
        place, version, *_, source, kind, error = row
        changes = {"status": "FAILED", "failed_at": now, "wait_reason": None, "not_before": None, "error": error}
        announce_change(place=place, version=version, changes=changes, now=now)
        metrics.count(metrics.outbound.labels(origin=source.lower(), type=kind.lower(), status="failed"))


def _change(sets: str, rule: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(_CHANGED.format(sets=sets, rule=rule), parameters)
        return [
            (Place(row[0], row[1], row[11], row[12], row[2], row[3]), *row[4:10], loads(row[10]))
            for row in cursor.fetchall()
        ]
