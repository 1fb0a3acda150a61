"""What due messages of a line wait for (it is offline, over its pace, its circuit is open), and the end of that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine import metrics
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.outbox.scheduling import too_late
from tickets.services.outbox.waking import wake_sender
from tickets.transports import Line

# The rows that a line may send now, oldest first: of each ticket its first live one, none while one is in flight.
# What was scheduled for long ago is for the sweeper to end, also when a sender is there before it.
DUE = """
    SELECT d.id FROM tickets_message d
    WHERE d.session_id = %(session)s AND d.tenant_id = %(tenant)s AND d.status = 'QUEUED'
        AND (d.not_before IS NULL OR d.not_before <= %(now)s) AND d.wait_reason IS DISTINCT FROM 'RISK_PAUSED'
        AND (d.scheduled_at IS NULL OR d.scheduled_at >= %(late)s)
        AND NOT EXISTS (SELECT 1 FROM tickets_message e WHERE e.ticket_id = d.ticket_id AND e.id <> d.id
            AND (e.status = 'SENDING' OR (e.status = 'QUEUED' AND e.position < d.position)))
    ORDER BY d.id LIMIT %(most)s FOR UPDATE SKIP LOCKED
"""
MOST = 200  # rows of a line that are told at once; the others are found by the next look
# The channel's own wish for a pause holds back a whole line (claiming.py): it is over for a row that waits anew.
_HOLD = f"""
UPDATE tickets_message m SET wait_reason = %(reason)s, not_before = w.until, version = m.version + 1,
    error = CASE WHEN m.error ->> 'code' = 'RATE_LIMITED' THEN NULL ELSE m.error END
FROM unnest(ARRAY({DUE}), %(untils)s::timestamptz[]) AS w (id, until), tickets_ticket t
WHERE m.id = w.id AND w.until IS NOT NULL AND t.id = m.ticket_id
    AND (m.wait_reason IS DISTINCT FROM %(reason)s OR m.not_before IS DISTINCT FROM w.until)
RETURNING m.tenant_id, m.ticket_id, t.queue_id, t.assignee_id, m.id, m.position, m.version, m.wait_reason, m.not_before
"""  # noqa: S608 - a constant of ours
# What may still be taken back waits on until then.
_FREE = """
UPDATE tickets_message m SET version = m.version + 1,
    not_before = CASE WHEN m.cancelable_until > %(now)s THEN m.cancelable_until END,
    wait_reason = CASE WHEN m.cancelable_until > %(now)s THEN 'UNDO_WINDOW' END
FROM tickets_ticket t
WHERE t.id = m.ticket_id AND m.id = ANY(ARRAY(
    SELECT d.id FROM tickets_message d
    WHERE d.session_id = %(session)s AND d.status = 'QUEUED' AND d.wait_reason = %(waits)s
    ORDER BY d.id FOR UPDATE
))
RETURNING m.tenant_id, m.ticket_id, t.queue_id, t.assignee_id, m.id, m.position, m.version, m.wait_reason, m.not_before
"""


def hold_due(*, line: Line, reason: str, untils: Sequence[datetime], now: datetime) -> int:
    """Let the due rows of a line wait, the first until the first moment and so on; returns how many did not yet.

    Runs in the claimer's transaction.
    """
    where = {
        "session": line.id, "tenant": line.tenant_id, "now": now, "late": too_late(now), "most": len(untils),
        "untils": list(untils),
    }  # fmt: skip
    told = _change(_HOLD, {**where, "reason": reason}, now)
    if told and reason == "PACING":
        metrics.count(metrics.outbound_rate_limited.labels(where="pace"), told)
    return told


def wake_session(*, session_id: UUID, now: datetime) -> None:
    """A session connected: what waited for it is due now, and its sender wakes. Runs in the caller's scope.

    Here as below, what may still be taken back is due at the end of that time.
    """
    _free(session_id, "SESSION_OFFLINE", now)


def release_held(*, session_id: UUID, now: datetime) -> None:
    """A risk pause was lifted: what it held is due now, and its sender wakes. Runs in the caller's scope."""
    _free(session_id, "RISK_PAUSED", now)


def free_held(*, session_id: UUID, now: datetime) -> None:
    """A circuit closed: what waited for it is due now, and its sender wakes. Runs in the caller's scope."""
    _free(session_id, "CIRCUIT_OPEN", now)


def _free(session_id: UUID, reason: str, now: datetime) -> None:
    _change(_FREE, {"session": session_id, "waits": reason, "now": now}, now)
    wake_sender(session_id)


def _change(statement: str, values: dict[str, Any], now: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        rows = cursor.fetchall()
    for row in rows:
        changes = {"wait_reason": row[7], "not_before": row[8]}
        announce_change(place=Place(*row[:6]), version=row[6], changes=changes, now=now)
    return len(rows)
