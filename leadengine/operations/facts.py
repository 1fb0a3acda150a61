"""What the database says of the state of the product: read by the health page and by the metrics.

Each function takes a cursor (psycopg's or Django's) in the service scope and runs one statement that is bounded by an
index, never by the size of a table.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Protocol
from uuid import UUID

from django.db.migrations.loader import MigrationLoader

from leadengine.accounts.walls import walled_tables
from leadengine.operations.heartbeat import ALIVE

RECENT = timedelta(minutes=5)
# spec/sessions.md section 8.
REAUTH_REASONS = (
    "session_expired", "suspicious_block", "client_update", "session_conflict", "broker_reset", "idle_14d",
)  # fmt: skip
# spec/outbound.md section 3.
WAIT_REASONS = (
    "none", "session_offline", "circuit_open", "pacing", "retry", "order", "undo_window", "risk_paused",
    "first_contact_budget",
)  # fmt: skip
_MOST = 20_000  # newest rows that a figure over five minutes is made of


class Cursor(Protocol):
    """What psycopg's and Django's cursors have in common."""

    def execute(self, sql: Any, parameters: Any = None, /) -> Any: ...
    def fetchall(self) -> list[Any]: ...


def alive(cursor: Cursor) -> Counter[str]:
    """How many processes of each kind were seen within 30 s."""
    cursor.execute(
        "SELECT kind, count(*) FROM operations_heartbeat WHERE at > now() - make_interval(secs => %s) GROUP BY kind",
        [ALIVE],
    )
    return Counter(dict(cursor.fetchall()))


def last_tick(cursor: Cursor) -> tuple[datetime | None, bool]:
    """When beat last ticked, and whether that is within 30 s."""
    cursor.execute(
        """SELECT max(at), coalesce(max(at) > now() - make_interval(secs => %s), false)
           FROM operations_heartbeat WHERE kind = 'beat'""",
        [ALIVE],
    )
    at, recent = cursor.fetchall()[0]
    return at, recent


def walls(cursor: Cursor) -> dict[str, bool]:
    """For each tenant-owned table: row level security is enabled and forced, and has policies, none of them `true`."""
    cursor.execute(
        """SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AND coalesce((
               SELECT bool_and(coalesce(pg_get_expr(p.polqual, c.oid), '') <> 'true'
                               AND coalesce(pg_get_expr(p.polwithcheck, c.oid), '') <> 'true')
               FROM pg_policy p WHERE p.polrelid = c.oid), false)
           FROM pg_class c WHERE c.relname = ANY(%s) AND c.relnamespace = 'public'::regnamespace""",
        [list(walled_tables())],
    )
    found = dict(cursor.fetchall())
    return {table: bool(found.get(table)) for table in walled_tables()}


def role_is_bound(cursor: Cursor) -> bool:
    """Whether the role that we log in as is neither superuser nor exempt from row level security."""
    cursor.execute("SELECT NOT (rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = session_user")
    return bool(cursor.fetchall()[0][0])


def pending_migrations(cursor: Cursor) -> int:
    """How many migrations of this code the database has not seen."""
    cursor.execute("SELECT app, name FROM django_migrations")
    return len(_migrations() - {(app, name) for app, name in cursor.fetchall()})


def sessions(cursor: Cursor) -> list[tuple[str, str, bool, bool]]:
    """(tenant slug, connection, connected, wanted) of every session; a row with an empty connection for each tenant
    without one."""
    cursor.execute(
        """SELECT t.slug, coalesce(s.connection_id, ''), coalesce(s.status = 'connected', false),
               coalesce(s.desired_state = 'connected', false)
           FROM accounts_tenant t
           LEFT JOIN whatsapp_sessions s ON s.tenant_id = t.id AND s.deleted_at IS NULL
           WHERE t.is_active ORDER BY t.slug, s.connection_id"""
    )
    return cursor.fetchall()


def silent_sessions(cursor: Cursor) -> int:
    """Connected sessions that should have received something and have not."""
    cursor.execute(
        """SELECT count(*) FROM whatsapp_sessions
           WHERE status = 'connected' AND deleted_at IS NULL AND silent_since IS NOT NULL"""
    )
    return int(cursor.fetchall()[0][0])


def oldest_reconnect(cursor: Cursor) -> float:
    """Seconds that the longest of the sessions that reconnect by themselves has been away; 0 when there is none.

    Not among them: those that wait for a scan or for a person, those left alone, and all of them under maintenance.
    """
    cursor.execute(
        """SELECT coalesce(extract(epoch FROM now() - min(s.reconnect_started_at)), 0)::float8
           FROM whatsapp_sessions s JOIN accounts_tenant t ON t.id = s.tenant_id AND t.is_active
           WHERE s.desired_state = 'connected' AND s.status IN ('connecting', 'error') AND s.auto_reconnect
               AND s.deleted_at IS NULL AND NOT EXISTS (SELECT FROM whatsapp_maintenance WHERE is_on)"""
    )
    return max(0.0, float(cursor.fetchall()[0][0]))


def lost_sessions(cursor: Cursor) -> int:
    """How many sessions each tenant's last recovery expected, and that have not been back since it began.

    A session is back once the broker has said so: while it cannot be reached the row still says connected.
    """
    cursor.execute(
        """SELECT coalesce(sum(least(r.lost, n.missing)), 0)
           FROM accounts_tenant t
           CROSS JOIN LATERAL (SELECT started_at, lost FROM whatsapp_recoveryrun
                               WHERE tenant_id = t.id ORDER BY started_at DESC LIMIT 1) r
           CROSS JOIN LATERAL (
               SELECT count(*) AS missing FROM whatsapp_sessions s
               WHERE s.tenant_id = t.id AND s.desired_state = 'connected' AND s.deleted_at IS NULL
                   AND (s.connected_at IS NULL OR s.connected_at < r.started_at)
                   AND CASE s.status
                       WHEN 'connected' THEN s.last_synced_at IS NULL OR s.last_synced_at < r.started_at
                       WHEN 'connecting' THEN true
                       ELSE s.state_changed_at >= r.started_at  -- else it was not expected
                   END) n
           WHERE t.is_active AND r.lost > 0"""
    )
    return int(cursor.fetchall()[0][0])


def reauth_required(cursor: Cursor) -> dict[tuple[str, str], int]:
    """How many sessions need a person, by tenant slug and reason; 0 for every reason that there is."""
    cursor.execute(
        """SELECT t.slug, r.reason, count(s.id) FROM accounts_tenant t CROSS JOIN unnest(%s::text[]) AS r (reason)
           LEFT JOIN whatsapp_sessions s
               ON s.tenant_id = t.id AND s.reauth_reason = r.reason AND s.deleted_at IS NULL
           WHERE t.is_active GROUP BY 1, 2 ORDER BY 1, 2""",
        [list(REAUTH_REASONS)],
    )
    return {(tenant, reason): count for tenant, reason, count in cursor.fetchall()}


def webhooks_given_up(cursor: Cursor) -> bool:
    """Whether an integrator's endpoint was switched off because of what it answers, and nobody has seen to it."""
    cursor.execute(
        """SELECT EXISTS (SELECT 1 FROM webhooks_endpoint
                          WHERE deleted_at IS NULL AND disabled_reason IN ('GONE', 'FAILING'))"""
    )
    return bool(cursor.fetchall()[0][0])


def inbox(cursor: Cursor) -> dict[str, int]:
    """Webhook events and items by what they wait for: pending, parked, orphan, failed."""
    cursor.execute(
        """SELECT (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PENDING')
               + (SELECT count(*) FROM whatsapp_webhookitem WHERE fate = 'pending'),
               (SELECT count(*) FROM whatsapp_webhookitem WHERE fate = 'parked'),
               (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'ORPHAN'),
               (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'FAILED')"""
    )
    return dict(zip(("pending", "parked", "orphan", "failed"), cursor.fetchall()[0], strict=True))


def oldest_pending(cursor: Cursor) -> float:
    """Seconds that the oldest unprocessed event has waited; 0 when there is none."""
    cursor.execute(
        """SELECT coalesce(extract(epoch FROM now() - min(received_at)), 0)::float8
           FROM whatsapp_webhookevent WHERE status = 'PENDING'"""
    )
    return max(0.0, float(cursor.fetchall()[0][0]))


def media_jobs(cursor: Cursor) -> dict[str, int]:
    """Files that are not there yet, by state."""
    cursor.execute(
        """SELECT state, count(*) FROM tickets_messagemedia WHERE state IN ('pending', 'downloading') GROUP BY state"""
    )
    return {"pending": 0, "downloading": 0} | dict(cursor.fetchall())


def outbox(cursor: Cursor) -> int:
    """Messages that should be leaving: queued and due, or on their way."""
    cursor.execute(
        """SELECT count(*) FROM tickets_message
           WHERE status = 'SENDING' OR status = 'QUEUED' AND (not_before IS NULL OR not_before <= now())
               AND wait_reason IS DISTINCT FROM 'RISK_PAUSED'"""
    )
    return int(cursor.fetchall()[0][0])


def waiting_messages(cursor: Cursor) -> dict[str, int]:
    """Queued messages by what they wait for, in lower case; `none` is due."""
    cursor.execute(
        "SELECT lower(coalesce(wait_reason, 'none')), count(*) FROM tickets_message WHERE status = 'QUEUED' GROUP BY 1"
    )
    return dict.fromkeys(WAIT_REASONS, 0) | dict(cursor.fetchall())


def unconfirmed(cursor: Cursor) -> int:
    """Messages that may or may not have left, as long as nobody has dismissed them."""
    cursor.execute("SELECT count(*) FROM tickets_message WHERE status = 'UNCONFIRMED' AND dismissed_at IS NULL")
    return int(cursor.fetchall()[0][0])


def pipeline_latency(cursor: Cursor, now: datetime) -> tuple[float, float]:
    """Seconds from receipt to commit, median and 95th percentile, of the last five minutes; 0 when nothing came."""
    cursor.execute(
        """SELECT coalesce(percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds), ARRAY[0.0, 0.0])
           FROM (SELECT extract(epoch FROM processed_at - received_at)::float8 AS seconds FROM whatsapp_webhookevent
                 WHERE id >= %s AND status = 'PROCESSED' AND session_id IS NOT NULL ORDER BY id DESC LIMIT %s) e""",
        [_first_id(now - RECENT), _MOST],
    )
    median, high = cursor.fetchall()[0][0]
    return float(median), float(high)


def dedupe_ratio(cursor: Cursor, now: datetime) -> float:
    """Copies of known messages by messages seen, over the last five minutes; 0 when nothing came."""
    cursor.execute(
        """SELECT coalesce(avg((fate <> 'stored')::int), 0)::float8
           FROM (SELECT fate FROM whatsapp_webhookitem WHERE id >= %s AND kind IN ('message', 'vote', 'echo')
                     AND fate IN ('stored', 'enriched', 'duplicate', 'applied') ORDER BY id DESC LIMIT %s) i""",
        [_first_id(now - RECENT), _MOST],
    )
    return float(cursor.fetchall()[0][0])


def live_tickets(cursor: Cursor) -> tuple[dict[str, int], float]:
    """Tickets that have not ended, by status, and the seconds that the longest waiting customer waits."""
    cursor.execute(
        """SELECT status, count(*), coalesce(extract(epoch FROM now() - min(waiting_since)), 0)::float8
           FROM tickets_ticket WHERE status IN ('OPEN', 'PENDING', 'ASSIGNED') GROUP BY status"""
    )
    rows = cursor.fetchall()
    counts = {"OPEN": 0, "PENDING": 0, "ASSIGNED": 0} | {status: count for status, count, _ in rows}
    return counts, max([0.0, *(float(seconds) for _, _, seconds in rows)])


def timeline_drift(cursor: Cursor) -> int:
    """In how many tickets the last run over each tenant, of the past two days, found wrong figures."""
    cursor.execute(
        """SELECT coalesce(sum(tickets_changed), 0) FROM (
               SELECT DISTINCT ON (tenant_id) tickets_changed FROM tickets_timelinerun
               WHERE finished_at IS NOT NULL AND started_at > now() - interval '2 days'
               ORDER BY tenant_id, started_at DESC) r"""
    )
    return int(cursor.fetchall()[0][0])


def backups(cursor: Cursor) -> tuple[datetime | None, datetime | None, int]:
    """When everything was last backed up, when such a backup was last verified, and how many bytes the newest has."""
    cursor.execute(
        """SELECT max(created_at), max(verified_at), coalesce((array_agg(bytes ORDER BY created_at DESC))[1], 0)
           FROM operations_backuprecord WHERE part = 'whole' AND NOT without_messages"""
    )
    made, verified, size = cursor.fetchall()[0]
    return made, verified, int(size)


@cache
def _migrations() -> frozenset[tuple[str, str]]:
    return frozenset(MigrationLoader(None).disk_migrations)


def _first_id(at: datetime) -> UUID:
    """The least uuid7 that a row made at `at` can have: ids are ordered by time, so the primary key finds them."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
