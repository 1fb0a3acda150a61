"""After an outage: what the broker lists and we do not have comes in (spec/inbound.md section 15).

Each session is read by itself, under a lease in its row, and never inside a transaction: a broker that is slow for one
holds up no other. What is stored is committed before the broker may forget it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import connection
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.errors import NotConfigured
from leadengine.redis import UNAVAILABLE, client
from leadengine.sql import insert_rows, loads
from whatsapp.adapters import Listed, get_adapter
from whatsapp.broker_errors import BrokerError
from whatsapp.broker_health import read_broker_health
from whatsapp.services.gap_fill_news import Known, sift
from whatsapp.services.intake import split_entries

log = structlog.get_logger(__name__)

TICK = 2.0  # seconds between two looks for sessions that are due
AWAY = timedelta(seconds=10)  # without a look for so long, we were the outage
LEASE = timedelta(seconds=60)  # two calls at their slowest; renewed with each page
RETRY = timedelta(seconds=3)
_AT_ONCE = 24  # sessions that are read at a time: the threads also send
_LAST_LOOK, _ILL = "gap-fill:looked", "gap-fill:ill"  # keys in Redis; losing them costs one more reading

_DUE = """
SELECT s.id FROM whatsapp_sessions s
JOIN accounts_tenant t ON t.id = s.tenant_id AND t.is_active
LEFT JOIN whatsapp_gapfill g ON g.session_id = s.id
WHERE s.status = 'connected' AND s.deleted_at IS NULL AND (g.lease_until IS NULL OR g.lease_until < %(now)s)
    AND (g.id IS NULL OR g.due_at <= %(now)s OR g.filled_at < s.connected_at AND s.connected_at <= %(now)s)
ORDER BY g.due_at NULLS FIRST
LIMIT greatest(0, %(most)s - (SELECT count(*) FROM whatsapp_gapfill WHERE lease_until >= %(now)s))
"""
_CLAIM = """
INSERT INTO whatsapp_gapfill AS g (id, tenant_id, session_id, due_at, holder, lease_until)
SELECT %(holder)s, s.tenant_id, s.id, %(next)s, %(holder)s, %(until)s FROM whatsapp_sessions s
WHERE s.id = %(session)s AND s.status = 'connected' AND s.deleted_at IS NULL
ON CONFLICT (session_id) DO UPDATE SET due_at = excluded.due_at, holder = excluded.holder,
    lease_until = excluded.lease_until
WHERE (g.lease_until IS NULL OR g.lease_until < %(now)s) AND (g.due_at <= %(now)s OR g.filled_at < (
    SELECT s.connected_at FROM whatsapp_sessions s WHERE s.id = g.session_id))
RETURNING g.tenant_id
"""
_EVENT = {
    "id": "uuid", "tenant_id": "uuid", "session_id": "uuid", "instance_id": "text", "kind": "text", "source": "text",
    "status": "text", "slot": "smallint", "body": "bytea", "queued": "int", "received_at": "timestamptz",
    "due_at": "timestamptz",
}  # fmt: skip


@dataclass(slots=True)
class Round:
    """One reading of one session's list. `holder` proves that the lease is ours."""

    tenant_id: UUID
    session_id: UUID
    instance: str
    holder: UUID
    known: Known
    new: int = 0


class LeaseLost(Exception):
    """Somebody else reads this list now: what is left is theirs."""


def find_due(*, now: datetime) -> list[UUID]:
    """The sessions whose list should be read now: all of them after an outage of ours or of the broker."""
    if _were_away(now) or _broker_is_back():
        request_gap_fills(now=now)
    with service_scope("sessions whose event list is due"), connection.cursor() as cursor:
        cursor.execute(_DUE, {"now": now, "most": _AT_ONCE})
        return [row[0] for row in cursor.fetchall()]


def request_gap_fills(*, now: datetime, session_id: UUID | None = None) -> None:
    """Let the list of one session, or of all, be read at once. Of all: whoever was reading is taken to be gone."""
    with service_scope("read event lists now"), connection.cursor() as cursor:
        if session_id is None:
            cursor.execute("UPDATE whatsapp_gapfill SET due_at = %s, holder = NULL, lease_until = NULL", [now])
        else:
            cursor.execute("UPDATE whatsapp_gapfill SET due_at = %s WHERE session_id = %s", [now, session_id])


def fill_gap(*, session_id: UUID) -> int:
    """Read a session's list to its end and store what we do not have; returns how many events that were.

    A broker that fails is asked again soon; nothing is acknowledged that is not committed. Harmless when the session is
    not due or somebody else reads it.
    """
    current = _claim(session_id, timezone.now())
    if current is None:
        return 0
    try:
        _read_list(current)
    except LeaseLost:
        log.info("gap_fill_handed_over", session_id=str(session_id))
    except (BrokerError, NotConfigured) as error:
        log.warning("gap_fill_failed", session_id=str(session_id), error=error.code)
        _release(current, again=RETRY if isinstance(error, BrokerError) and error.ill else None)
    except Exception:
        _release(current, again=RETRY)
        raise
    else:
        _release(current, good=True)
    return current.new


def _claim(session_id: UUID, now: datetime) -> Round | None:
    with service_scope("claim an event list"), connection.cursor() as cursor:
        holder = uuid4()
        after = now + timedelta(seconds=settings.WHATSAPP_GAP_FILL_SECONDS)
        cursor.execute(
            _CLAIM, {"session": session_id, "holder": holder, "now": now, "next": after, "until": now + LEASE}
        )
        if cursor.fetchone() is None:
            return None
        cursor.execute(
            "SELECT tenant_id, coalesce(broker_instance_id, connection_id), capabilities FROM whatsapp_sessions "
            "WHERE id = %s",
            [session_id],
        )
        tenant_id, instance, stored = cursor.fetchone()
    capabilities = {**get_adapter().capabilities, **(loads(stored) or {})}
    if not capabilities["pullEvents"]:
        return None  # due again after the usual time; the lease ends by itself
    return Round(tenant_id, session_id, instance, holder, Known(tenant_id, session_id))


def _read_list(current: Round) -> None:
    adapter, after, seen = get_adapter(), None, set[str]()
    while True:
        page = adapter.pull_events(instance=current.instance, after=after, now=timezone.now())
        fresh = [one for one in page if one.id not in seen]
        if not fresh:
            return  # the end; or a broker that has forgotten `after` and begins anew
        seen.update(one.id for one in fresh)
        try:
            done = _store(current, fresh)
            if done:
                adapter.ack_events(instance=current.instance, ids=done)
        except Exception:
            metrics.gap_fill_events.labels(outcome="failed").inc(len(fresh))
            raise
        after = page[-1].id


def _store(current: Round, page: list[Listed]) -> list[str]:
    """Commit what is new on a page; returns the ids that the broker may forget. Raises: LeaseLost."""
    now = timezone.now()
    with tenant_scope(current.tenant_id), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_gapfill SET lease_until = %s WHERE session_id = %s AND holder = %s",
            [now + LEASE, current.session_id, current.holder],
        )
        if not cursor.rowcount:
            raise LeaseLost
        verdicts = sift(page=page, known=current.known, now=now)
        news = [one.entry for one, verdict in zip(page, verdicts, strict=True) if verdict == "new"]
        entries = [
            entry
            for body in news
            for entry in split_entries(
                raw=json.dumps(body, separators=(",", ":")).encode(), parsed=body, request_id="", received_at=now
            )
        ]
        rows = [
            (
                entry.id, current.tenant_id, current.session_id, entry.instance_id, entry.kind, "pull", "PENDING",
                entry.slot, entry.body, entry.queued, now, now,
            )
            for entry in entries
        ]  # fmt: skip
        insert_rows(cursor, "whatsapp_webhookevent", _EVENT, rows)
        for outcome in ("new", "known"):
            metrics.count(metrics.gap_fill_events.labels(outcome=outcome), verdicts.count(outcome))
    current.new += len(rows)
    current.known.read_until(entries[-1].id if entries else None)
    return [one.id for one, verdict in zip(page, verdicts, strict=True) if verdict != "later"]


def _release(current: Round, *, good: bool = False, again: timedelta | None = None) -> None:
    """Give the lease back. A request that came meanwhile stands: it has made the list due already."""
    now = timezone.now()
    with service_scope("end of an event list"), connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_gapfill SET holder = NULL, lease_until = NULL,
                   filled_at = CASE WHEN %(good)s THEN %(now)s ELSE filled_at END,
                   failures = CASE WHEN %(good)s THEN 0 ELSE failures + 1 END,
                   due_at = least(due_at, coalesce(%(again)s, due_at))
               WHERE session_id = %(session)s AND holder = %(holder)s""",
            {
                "good": good, "now": now, "again": now + again if again else None, "session": current.session_id,
                "holder": current.holder,
            },
        )  # fmt: skip


def _were_away(now: datetime) -> bool:
    """Whether nobody has looked for a while: the workers, Redis or PostgreSQL were away."""
    try:
        before: bytes | None = client().set(_LAST_LOOK, str(now.timestamp()), get=True)  # type: ignore[assignment]
    except UNAVAILABLE:
        return False
    return before is None or now.timestamp() - float(before) > AWAY.total_seconds()


def _broker_is_back() -> bool:
    """Whether a broker that was ill at one of the last looks answers again."""
    try:
        if read_broker_health().degraded:
            client().set(_ILL, 1)
            return False
        return bool(client().delete(_ILL))
    except UNAVAILABLE:
        return False
