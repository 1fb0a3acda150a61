"""The evidence that a line is alive, written by the drain: when something last came, and how much each hour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.sql import unnest
from whatsapp.services.lines import announce_sessions
from whatsapp.services.persistence import persist

_NOTE = """
WITH heard AS (
    INSERT INTO whatsapp_inboundhour AS h (id, tenant_id, session_id, hour, received)
    SELECT gen_random_uuid(), %s, u.session_id, u.hour, u.received FROM {source} AS u (session_id, hour, received)
    ON CONFLICT (session_id, hour) DO UPDATE SET received = h.received + excluded.received
), silent AS (
    SELECT id FROM whatsapp_sessions WHERE id = ANY(%s) AND silent_since IS NOT NULL
)
UPDATE whatsapp_sessions s SET last_activity_at = %s,
    last_inbound_at = CASE WHEN s.id = ANY(%s) THEN %s ELSE s.last_inbound_at END,
    last_ack_at = CASE WHEN s.id = ANY(%s) THEN %s ELSE s.last_ack_at END,
    silent_since = CASE WHEN s.id = ANY(%s) THEN NULL ELSE s.silent_since END,
    version = s.version + (s.id IN (SELECT id FROM silent))::int
WHERE s.id = ANY(%s)
RETURNING s.id, s.id IN (SELECT id FROM silent)
"""
_HOURS = {"session_id": "uuid", "hour": "timestamptz", "received": "int"}


def note_traffic(
    *, tenant_id: UUID, heard: Sequence[tuple[UUID, datetime]], acked: Collection[UUID], now: datetime
) -> None:
    """Note what came in a batch: `heard` is (session, received at) of each message of a customer, `acked` the sessions
    with acks. A line that was taken to be silent is not any more, and supervisors are told."""
    if not heard and not acked:
        return
    hours = Counter((session, at.replace(minute=0, second=0, microsecond=0)) for session, at in heard)
    source, arrays = unnest(_HOURS, sorted((*key, count) for key, count in hours.items()))
    inbound, both = sorted({session for session, _ in heard}), sorted({*acked, *(session for session, _ in heard)})

    def write() -> list[UUID]:
        with connection.cursor() as cursor:
            cursor.execute(
                _NOTE.format(source=source),
                [tenant_id, *arrays, inbound, now, inbound, now, sorted(acked), now, inbound, both],
            )
            return [session for session, was_silent in cursor.fetchall() if was_silent]

    loud = persist("session.evidence", write)
    announce_sessions(tenant_id=tenant_id, ids=loud, change="evidence", now=now)
