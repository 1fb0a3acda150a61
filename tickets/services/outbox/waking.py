"""Waking the sender of a session. Redis is only a hint: what is not woken is found by the sweeper."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine.celery import app
from leadengine.wake import wake_on_commit
from tickets.services.announce import Place, announce_change

SEND_TASK = "tickets.send_due"


def sender_key(session_id: UUID | str) -> str:
    """The name under which wake-ups of a session's sender are joined."""
    return f"send:{session_id}"


def wake_sender(session_id: UUID) -> None:
    """Wake the session's sender once the running transaction has committed."""
    # By name, not by import: the task stands above the services it calls.
    task: Any = app.signature(SEND_TASK)
    wake_on_commit(task, key=sender_key(session_id), session_id=str(session_id))


def wake_sender_at(session_id: UUID, *, at: datetime, now: datetime) -> None:
    """Wake the session's sender at a time that is near: what is due then is not due before."""
    task: Any = app.signature(SEND_TASK).set(countdown=max(0.0, (at - now).total_seconds()))
    wake_on_commit(task, key=f"{sender_key(session_id)}:{at:%H%M%S}", session_id=str(session_id))


def move_queued(*, old_id: UUID, new_id: UUID, now: datetime) -> None:
    """A session was replaced: what waits on the old one leaves through the new one. Runs in the caller's scope.

    What may still be taken back waits on, whichever session it leaves through.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MOVE, [new_id, old_id])
        rows = cursor.fetchall()
    for row in rows:
        changes = {"sessionId": str(new_id), "wait_reason": row[7], "not_before": row[8]}
        announce_change(place=Place(*row[:6]), version=row[6], changes=changes, now=now)
    wake_sender(new_id)


_MOVE = """
UPDATE tickets_message m SET session_id = %s, version = m.version + 1,
    not_before = CASE m.wait_reason WHEN 'UNDO_WINDOW' THEN m.not_before END,
    wait_reason = CASE m.wait_reason WHEN 'UNDO_WINDOW' THEN m.wait_reason END
FROM tickets_ticket t
WHERE t.id = m.ticket_id AND m.session_id = %s
    AND (m.status = 'QUEUED' OR (m.status = 'SCHEDULED' AND m.scheduled_at IS NOT NULL))
RETURNING m.tenant_id, m.ticket_id, t.queue_id, t.assignee_id, m.id, m.position, m.version, m.wait_reason, m.not_before
"""
