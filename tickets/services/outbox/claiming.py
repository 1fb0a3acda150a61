"""Claiming what is due: QUEUED becomes SENDING, in order, one per conversation (spec/outbound.md sections 1 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from leadengine.accounts.scopes import tenant_scope
from leadengine.sql import loads
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.outbox.recipients import Recipient, load_recipients
from tickets.transports import Line, SendOrder

LEASE_SPARE = timedelta(seconds=30)
_LOCK = 0x0B0C5  # class of the advisory locks of claimers

# How many more a line may have in flight. A row that it refused for a while (offline, too fast) holds back the whole
# line, so that one message asks again and not all of them. Pace and breaker of section 9 narrow this number.
_FREE = """
SELECT CASE WHEN count(*) FILTER (WHERE status = 'QUEUED') > 0 THEN 0
    ELSE greatest(0, %(most)s - count(*) FILTER (WHERE status = 'SENDING')) END
FROM tickets_message WHERE session_id = %(session)s AND tenant_id = %(tenant)s AND (status = 'SENDING'
    OR (status = 'QUEUED' AND wait_reason IN ('SESSION_OFFLINE', 'PACING') AND not_before > %(now)s))
"""
# A ticket gives its first live row, and none while one is in flight. `sent_at` is the time of the try from now on: an
# echo finds its row by it, however long the row had waited. The limit and the array keep the planner from reading the
# whole table: it knows how few rows there will be.
_CLAIM = """
UPDATE tickets_message m SET status = 'SENDING', claim_token = gen_random_uuid(), claimed_at = %(now)s,
    sent_at = %(now)s, lease_until = %(lease)s, attempts = attempts + 1, wait_reason = NULL, not_before = NULL,
    error = NULL, version = m.version + 1
FROM tickets_ticket t
WHERE t.id = m.ticket_id AND m.id = ANY(ARRAY(
    SELECT d.id FROM tickets_message d
    WHERE d.session_id = %(session)s AND d.tenant_id = %(tenant)s AND d.status = 'QUEUED'
        AND (d.not_before IS NULL OR d.not_before <= %(now)s) AND d.wait_reason IS DISTINCT FROM 'RISK_PAUSED'
        AND NOT EXISTS (SELECT 1 FROM tickets_message e WHERE e.ticket_id = d.ticket_id AND e.id <> d.id
            AND (e.status = 'SENDING' OR (e.status = 'QUEUED' AND e.position < d.position)))
    ORDER BY d.id LIMIT %(free)s FOR UPDATE SKIP LOCKED))
RETURNING m.id, m.ticket_id, m.position, m.version, m.claim_token, m.attempts, m.contact_id, m.payload,
    m.external_reference, m.source, m.type, m.metadata -> 'client', t.queue_id, t.assignee_id,
    (SELECT f.source FROM tickets_messagemedia f WHERE f.message_id = m.id)
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """One row in flight: whoever holds its token may settle it."""

    order: SendOrder
    place: Place
    contact_id: UUID
    number: int
    claimed_at: datetime
    source: str
    type: str


def claim_due(*, line: Line, now: datetime) -> list[Claim]:
    """Claim the due rows of a line, as many as it may still have in flight over all workers, and commit."""
    lease = now + timedelta(milliseconds=settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS) + LEASE_SPARE
    with tenant_scope(line.tenant_id), connection.cursor() as cursor:
        # One claimer at a time per line: two that overlook each other could exceed its cap, or pass each other.
        cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK, str(line.id)])
        where: dict[str, Any] = {"session": line.id, "tenant": line.tenant_id, "now": now}
        cursor.execute(_FREE, {**where, "most": settings.OUTBOUND_CONCURRENCY_PER_SESSION})
        free = cursor.fetchone()[0]
        if not free:
            return []
        cursor.execute(_CLAIM, {**where, "lease": lease, "free": free})
        rows = sorted(cursor.fetchall())
        people = load_recipients(tenant_id=line.tenant_id, ids=[row[6] for row in rows]) if rows else {}
        claims = [_claim(line, row, people[row[6]], now) for row in rows]
        for claim, row in zip(claims, rows, strict=True):
            changes = {"status": "SENDING", "sent_at": now, "wait_reason": None, "not_before": None, "error": None}
            announce_change(place=claim.place, version=row[3], changes=changes, now=now)
    return claims


def next_due(*, line: Line, now: datetime) -> datetime | None:
    """When the line's next waiting row is due; None when none waits for a time."""
    with tenant_scope(line.tenant_id), connection.cursor() as cursor:
        cursor.execute(
            """SELECT min(not_before) FROM tickets_message
               WHERE session_id = %s AND tenant_id = %s AND status = 'QUEUED' AND not_before > %s""",
            [line.id, line.tenant_id, now],
        )
        due: datetime | None = cursor.fetchone()[0]
    return due


def _claim(line: Line, row: Any, person: Recipient, now: datetime) -> Claim:
    (
        message_id, ticket_id, position, _, token, number, contact_id, payload, reference, source, kind, client,
        queue_id, assignee_id, file,
    ) = row  # fmt: skip
    stored: Mapping[str, Any] = loads(payload) or {}  # a row that no door made fails alone, not its whole line
    order = SendOrder(
        message_id=message_id,
        attempt_id=token,
        line=line,
        identities=(("phone", stored["to"]),) if "to" in stored else person.identities,
        is_group=person.is_group,
        payload={**stored, "metadata": loads(client)},
        file=loads(file),
        reference=reference or str(message_id),
    )
    place = Place(line.tenant_id, ticket_id, queue_id, assignee_id, message_id, position)
    return Claim(order, place, contact_id, number, now, source, kind)
