"""Claiming what is due: a few of each endpoint, so that no endpoint takes the hands of another (spec/outbound.md 14).

A claim is a lease: the row is due again when it ends, so what a killed worker had in its hands is sent once more, with
the same id.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine.accounts.scopes import service_scope
from leadengine.ids import uuid7
from leadengine.sealing import unseal
from leadengine.sql import insert_rows

LEASE = timedelta(seconds=30)  # a call ends after 10
PER_ENDPOINT = 4  # in flight at once
PER_TENANT = 16  # of one process: half of its hands, so that nobody's endpoints take all of them
WORKER_LOST = "WORKER_LOST"
_LOCK = 0x3EB40  # the advisory lock of claimers

# Each endpoint that has live rows, and when its first one is due: one look into the index for each, not for each row.
_DUE = """
WITH RECURSIVE waiting (endpoint_id, due) AS (
    (SELECT endpoint_id, next_attempt_at FROM webhooks_delivery WHERE status IN ('PENDING', 'SENDING')
     ORDER BY endpoint_id, next_attempt_at LIMIT 1)
    UNION ALL
    SELECT later.endpoint_id, later.next_attempt_at FROM waiting, LATERAL (
        SELECT d.endpoint_id, d.next_attempt_at FROM webhooks_delivery d
        WHERE d.status IN ('PENDING', 'SENDING') AND d.endpoint_id > waiting.endpoint_id
        ORDER BY d.endpoint_id, d.next_attempt_at LIMIT 1) later
)
SELECT e.id, e.tenant_id, e.failures > 0, (
    SELECT count(*) FROM webhooks_delivery f
    WHERE f.endpoint_id = e.id AND f.status = 'SENDING' AND f.next_attempt_at > %(now)s)
FROM waiting w JOIN webhooks_endpoint e ON e.id = w.endpoint_id
WHERE w.due <= %(now)s AND e.enabled AND e.deleted_at IS NULL
ORDER BY w.due
"""
# The limit is written out: of one that stands in a row the planner expects a tenth of the table, and sorts a backlog.
_CHOOSE = f"""
SELECT d.id, d.status = 'SENDING'
FROM unnest(%(endpoints)s::uuid[], %(shares)s::int[]) AS share (endpoint_id, most), LATERAL (
    SELECT id, status, row_number() OVER (ORDER BY next_attempt_at, id) AS turn FROM (
        SELECT id, status, next_attempt_at FROM webhooks_delivery
        WHERE endpoint_id = share.endpoint_id AND status IN ('PENDING', 'SENDING') AND next_attempt_at <= %(now)s
        ORDER BY next_attempt_at, id LIMIT {PER_ENDPOINT} FOR UPDATE SKIP LOCKED) first) d
WHERE d.turn <= share.most ORDER BY d.turn
"""  # noqa: S608
# By a list of ids: of a subquery the planner expects so many rows that it reads the tables whole.
_CLAIM = """
UPDATE webhooks_delivery d SET status = 'SENDING', claim_token = gen_random_uuid(), next_attempt_at = %(until)s,
    tries = d.tries + 1, attempts = d.attempts + 1
FROM webhooks_endpoint e, webhooks_outgoingevent o
WHERE d.id = ANY(%(ids)s::uuid[]) AND e.id = d.endpoint_id AND o.id = d.event_id
RETURNING d.id, d.tenant_id, d.endpoint_id, d.event_id, d.claim_token, d.tries, d.attempts, d.type, e.url, e.secret,
    CASE WHEN e.previous_until > %(now)s THEN e.previous_secret ELSE '' END, o.body, e.failures > 0
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery in our hands: whoever has its token may settle it. `secrets` are those that sign now."""

    delivery_id: UUID
    tenant_id: UUID
    endpoint_id: UUID
    event_id: UUID
    token: UUID
    tries: int
    number: int
    type: str
    url: str
    secrets: tuple[str, ...]
    body: str
    failing: bool  # its endpoint, when this was claimed


@dataclass(frozen=True, slots=True)
class Hands:
    """How many deliveries may be taken: `free` in all, `troubled` of them for endpoints that fail or are slow.

    `busy`: how many hands each tenant has already.
    """

    free: int
    troubled: int
    slow: Collection[UUID] = ()
    busy: Mapping[UUID, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """An endpoint with something to send."""

    endpoint_id: UUID
    tenant_id: UUID
    failing: bool
    in_flight: int  # over all workers


def claim_due(*, now: datetime, hands: Hands) -> list[Claim]:
    """Take what is due, as many as there are hands for and each endpoint may have, and commit."""
    with service_scope("claim webhooks of all tenants"), connection.cursor() as cursor:
        # One claimer at a time: two that overlook each other could exceed what an endpoint may have in flight.
        cursor.execute("SELECT pg_advisory_xact_lock(%s, 0)", [_LOCK])
        cursor.execute(_DUE, {"now": now})
        shares = share_out([Due(*row) for row in cursor.fetchall()], hands)
        if not shares:
            return []
        values: dict[str, Any] = {
            "endpoints": list(shares), "shares": list(shares.values()), "now": now, "until": now + LEASE,
        }  # fmt: skip
        cursor.execute(_CHOOSE, values)
        chosen = dict(cursor.fetchall())
        if not chosen:
            return []
        cursor.execute(_CLAIM, {**values, "ids": list(chosen)})
        turns = {key: turn for turn, key in enumerate(chosen)}
        rows = sorted(cursor.fetchall(), key=lambda row: turns[row[0]])
        _note_lost(cursor, [row for row in rows if chosen[row[0]]], now)
    return [_claim(row) for row in rows]


def share_out(due: Sequence[Due], hands: Hands) -> dict[UUID, int]:
    """How many deliveries of each endpoint are taken: one each, the idle ones first, then another one each.

    One that fails or is slow gets one at a time, and all of those together no more than their part of the hands. The
    endpoints of a tenant together have no more than PER_TENANT.
    """
    free, troubled, busy = hands.free, hands.troubled, Counter(hands.busy)
    shares: dict[UUID, int] = {}
    queue = deque(sorted(due, key=lambda one: one.in_flight))
    while queue and free > 0:
        one = queue.popleft()
        in_trouble = one.failing or one.endpoint_id in hands.slow
        held = one.in_flight + shares.get(one.endpoint_id, 0)
        if held >= (1 if in_trouble else PER_ENDPOINT) or (in_trouble and troubled <= 0):
            continue
        if busy[one.tenant_id] >= PER_TENANT:
            continue
        shares[one.endpoint_id] = shares.get(one.endpoint_id, 0) + 1
        free -= 1
        troubled -= in_trouble
        busy[one.tenant_id] += 1
        queue.append(one)
    return shares


def _note_lost(cursor: Any, rows: Sequence[Any], now: datetime) -> None:
    """The try before this one ended with its worker: nobody knows what came of it."""
    columns = {
        "id": "uuid", "tenant_id": "uuid", "delivery_id": "uuid", "number": "int", "at": "timestamptz", "code": "text",
        "headers": "jsonb", "answer": "text",
    }  # fmt: skip
    lost = [(uuid7(), row[1], row[0], row[6] - 1, now, WORKER_LOST, "{}", "") for row in rows]
    insert_rows(cursor, "webhooks_attempt", columns, lost, "ON CONFLICT (delivery_id, number) DO NOTHING")


def _claim(row: Any) -> Claim:
    delivery_id, tenant_id, endpoint_id, event_id, token, tries, number, kind, url, *rest = row
    secret, previous, body, failing = rest
    opened = (unseal(one) for one in (secret, previous) if one)
    secrets = tuple(one for one in opened if one)
    return Claim(delivery_id, tenant_id, endpoint_id, event_id, token, tries, number, kind, url, secrets, body, failing)
