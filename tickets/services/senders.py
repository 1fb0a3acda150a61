"""Waking the sender of a session. Redis is only a hint: what is not woken is found by the sweeper."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine.celery import app
from leadengine.wake import wake_on_commit

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


def wake_successors(*, ticket_ids: Collection[UUID]) -> None:
    """Something ended in these tickets: the sender of each session wakes through which what stood behind it leaves."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT DISTINCT session_id FROM tickets_message
               WHERE ticket_id = ANY(%s) AND status = 'QUEUED' AND session_id IS NOT NULL""",
            [list(ticket_ids)],
        )
        rows = cursor.fetchall()
    for (session_id,) in rows:
        wake_sender(session_id)
