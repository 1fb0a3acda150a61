"""What waits on a session that was replaced, and the wake-ups of the outbox (services/senders.py)."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import connection

from tickets.services.announce import Place, announce_change
from tickets.services.senders import SEND_TASK, sender_key, wake_sender, wake_sender_at, wake_successors

__all__ = ["SEND_TASK", "move_queued", "sender_key", "wake_sender", "wake_sender_at", "wake_successors"]

# Rows are locked in the order of their ids, here and in every statement that changes many: two never wait for each
# other.
_MOVE = """
UPDATE tickets_message m SET session_id = %(new)s, version = m.version + 1,
    not_before = CASE WHEN m.cancelable_until > %(now)s THEN m.cancelable_until END,
    wait_reason = CASE WHEN m.cancelable_until > %(now)s THEN 'UNDO_WINDOW' END
FROM tickets_ticket t
WHERE t.id = m.ticket_id AND m.id = ANY(ARRAY(
    SELECT d.id FROM tickets_message d
    WHERE d.session_id = %(old)s
        AND (d.status = 'QUEUED' OR (d.status = 'SCHEDULED' AND d.scheduled_at IS NOT NULL))
    ORDER BY d.id FOR UPDATE
))
RETURNING m.tenant_id, m.ticket_id, t.queue_id, t.assignee_id, m.id, m.position, m.version, m.wait_reason, m.not_before
"""


def move_queued(*, old_id: UUID, new_id: UUID, now: datetime) -> None:
    """A session was replaced: what waits on the old one leaves through the new one. Runs in the caller's scope.

    What may still be taken back waits on, whichever session it leaves through.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MOVE, {"old": old_id, "new": new_id, "now": now})
        rows = cursor.fetchall()
    for row in rows:
        changes = {"sessionId": str(new_id), "wait_reason": row[7], "not_before": row[8]}
        announce_change(place=Place(*row[:6]), version=row[6], changes=changes, now=now)
    wake_sender(new_id)
