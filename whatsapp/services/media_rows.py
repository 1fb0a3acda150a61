"""The states of a file, in PostgreSQL: who may fetch it now, and what became of it (spec/inbound.md section 10).

A claim is a lease: whoever writes an outcome must still hold it, so a worker that was believed dead changes nothing.
The message is locked before its file, everywhere; a claim waits for neither. Each change raises the message's version
and tells message.updated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine import metrics
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.sql import loads
from tickets.models import MessageMedia
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.shapes import media_json

LEASE = timedelta(seconds=120)
BACKOFF = (10, 30, 120, 600, 1800, 7200, 21_600)  # seconds before each retry; then it has failed
KEYS_GRACE = timedelta(minutes=10)  # how long a file waits for the twin that brings its keys

_CLAIM = """
WITH due AS (
    SELECT f.id FROM tickets_messagemedia f JOIN tickets_message m ON m.id = f.message_id
    WHERE f.state IN ('pending', 'downloading') AND f.next_attempt_at <= %(now)s
        AND f.tenant_id <> ALL(%(busy)s::uuid[]) {fresh}
        AND (f.source <> '{{}}' OR f.created_at <= %(hopeless)s)
    ORDER BY f.next_attempt_at LIMIT %(most)s FOR UPDATE OF f, m SKIP LOCKED
)
UPDATE tickets_messagemedia f SET state = 'downloading', attempts = f.attempts + 1, lease_until = %(until)s,
    next_attempt_at = %(until)s
FROM due WHERE f.id = due.id
RETURNING f.id, f.tenant_id, f.message_id, f.source, f.attempts, f.created_at
"""
_BUMP = """
UPDATE tickets_message m SET version = m.version + 1 FROM tickets_ticket t
WHERE m.id = ANY(%s) AND t.id = m.ticket_id
RETURNING m.id, m.tenant_id, m.ticket_id, t.queue_id, t.assignee_id, m.position, m.version, m.session_id
"""


@dataclass(slots=True)
class Claim:
    """A file that this worker fetches. `lease_until` moves when the lease is renewed."""

    id: UUID
    tenant_id: UUID
    message_id: UUID
    source: dict[str, Any]
    attempts: int
    created_at: datetime
    lease_until: datetime
    session_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a claimed file. `outcome` is the word of whatsapp_media_total; None is not counted."""

    state: str
    outcome: str | None
    reason: str = ""
    retry_at: datetime | None = None
    attempts: int | None = None
    columns: dict[str, Any] | None = None


def claim_media(*, now: datetime, most: int, busy: Sequence[UUID], fresh: bool) -> list[Claim]:
    """Take up to `most` due files, of tenants that are not `busy`; `fresh`: only those that were never tried."""
    until = now + LEASE
    values: dict[str, Any] = {
        "now": now,
        "busy": list(busy),
        "most": most,
        "until": until,
        "hopeless": now - KEYS_GRACE,
    }
    with service_scope("claim media of all tenants"), connection.cursor() as cursor:
        cursor.execute(_CLAIM.format(fresh="AND f.attempts = 0" if fresh else ""), values)
        rows = cursor.fetchall()
        claims = [
            Claim(media_id, tenant_id, message_id, loads(source), attempts, created_at, until)
            for media_id, tenant_id, message_id, source, attempts, created_at in rows
        ]
        sessions = announce_media([claim.message_id for claim in claims], now)
        for claim in claims:
            claim.session_id = sessions.get(claim.message_id)
    return claims


def renew_media(*, claims: Sequence[Claim], now: datetime) -> None:
    """Keep files that are still on their way."""
    until = now + LEASE
    with service_scope("renew leases of media"), connection.cursor() as cursor:
        for claim in claims:
            cursor.execute(
                """UPDATE tickets_messagemedia SET lease_until = %s, next_attempt_at = %s
                   WHERE id = %s AND state = 'downloading' AND lease_until = %s""",
                [until, until, claim.id, claim.lease_until],
            )
            if cursor.rowcount:
                claim.lease_until = until


def settle_media(*, claim: Claim, verdict: Verdict, now: datetime) -> bool:
    """Write what became of a file; False when the lease was lost meanwhile, and nothing was written."""
    columns = {
        "state": verdict.state,
        "reason": verdict.reason[:60],
        "next_attempt_at": verdict.retry_at,
        "lease_until": None,
        **({} if verdict.attempts is None else {"attempts": verdict.attempts}),
        **(verdict.columns or {}),
    }
    sets = ", ".join(f"{name} = %s" for name in columns)
    with tenant_scope(claim.tenant_id), connection.cursor() as cursor:
        _lock(cursor, claim.message_id)
        cursor.execute(
            f"""UPDATE tickets_messagemedia SET {sets}
                WHERE id = %s AND tenant_id = %s AND state = 'downloading' AND lease_until = %s""",  # noqa: S608
            [*columns.values(), claim.id, claim.tenant_id, claim.lease_until],
        )
        if not cursor.rowcount:
            return False
        announce_media([claim.message_id], now)
        if verdict.outcome:
            metrics.count(metrics.media.labels(outcome=verdict.outcome))
        if verdict.state == MessageMedia.State.READY:
            metrics.observe(metrics.media_seconds, (now - claim.created_at).total_seconds())
    return True


def reset_media(*, media: MessageMedia, now: datetime) -> None:
    """Fetch a file again from the start, because a person asks for it. Runs in the caller's scope."""
    with connection.cursor() as cursor:
        _lock(cursor, media.message_id)
        cursor.execute(
            """UPDATE tickets_messagemedia SET state = 'pending', reason = '', attempts = 0, next_attempt_at = %s,
                   lease_until = NULL
               WHERE id = %s AND tenant_id = %s AND state IN ('failed', 'expired')""",
            [now, media.pk, media.tenant_id],
        )
        if cursor.rowcount:
            announce_media([media.message_id], now)


def _lock(cursor: Any, message_id: UUID) -> None:
    cursor.execute("SELECT 1 FROM tickets_message WHERE id = %s FOR UPDATE", [message_id])


def announce_media(message_ids: Sequence[UUID], now: datetime) -> dict[UUID, UUID | None]:
    """Raise the versions of messages and tell how their files are; gives the session of each."""
    if not message_ids:
        return {}
    found = MessageMedia.objects.defer("thumbnail", "source").filter(message_id__in=message_ids)
    files = {one.message_id: one for one in found}
    with connection.cursor() as cursor:
        cursor.execute(_BUMP, [list(message_ids)])
        rows = cursor.fetchall()
    for message_id, tenant_id, ticket_id, queue_id, assignee_id, position, version, _ in rows:
        place = Place(tenant_id, ticket_id, queue_id, assignee_id, message_id, position)
        announce_change(place=place, version=version, changes={"media": media_json(files[message_id])}, now=now)
    return {row[0]: row[7] for row in rows}
