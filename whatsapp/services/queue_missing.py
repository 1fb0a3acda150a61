"""A tenant without an active queue: messages wait, supervisors are told, nothing is dropped (D22)."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.realtime.broadcast import broadcast
from leadengine.redis import UNAVAILABLE, client
from whatsapp.events import QueueMissing


def report_queue_missing(*, tenant_id: UUID, session_id: UUID, now: datetime) -> None:
    """Tell supervisors how many messages wait for a queue, at most once a minute."""
    try:
        if not client().set(f"queue-missing:{tenant_id}", 1, nx=True, ex=60):
            return
    except UNAVAILABLE:
        pass  # without Redis nobody hears the event either way
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT count(*), min(created_at) FROM whatsapp_webhookitem
               WHERE tenant_id = %s AND fate = 'pending' AND reason = 'queue_missing'""",
            [tenant_id],
        )
        waiting, oldest = cursor.fetchone()
    broadcast(
        QueueMissing(
            tenant_id=tenant_id, at=now, session_id=session_id, waiting_events=max(1, waiting),
            oldest_at=oldest or now, message="Nenhuma fila ativa: crie uma fila para receber as conversas.",
        )
    )  # fmt: skip


def release_waiting(*, tenant_id: UUID, now: datetime) -> int:
    """A queue was created or activated: what waited for one is due now. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_webhookitem SET due_at = %s
               WHERE tenant_id = %s AND fate = 'pending' AND reason = 'queue_missing'""",
            [now, tenant_id],
        )
        return int(cursor.rowcount)
