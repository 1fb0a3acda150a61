"""The proof that nothing was lost or doubled: what came against what is here (spec/inbound.md section 14).

Reads only. Every check names the rows that differ, the first hundred of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine.accounts.scopes import service_scope

LIMIT = timedelta(minutes=2)  # beyond its time; the drain looks every second
LISTED = 100
_SLACK = timedelta(minutes=5)  # ids are made a little after the clock of the door was read


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be: the check that found it, the row, and what is wrong with it."""

    check: str
    id: str
    detail: str


@dataclass(slots=True)
class Proof:
    """`counts` tells what was looked at; `differences` is empty when nothing is lost or doubled."""

    since: datetime
    until: datetime
    counts: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.differences,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "counts": self.counts,
            "differences": [{"check": d.check, "id": d.id, "detail": d.detail} for d in self.differences],
        }


# Each gives rows (id, detail). Parameters: since, until, from_id, to_id (the uuid7 range around both), now, late.
_CHECKS = {
    # All rows of a body were committed in one transaction, each knowing how many they are.
    "entries": """
        SELECT min(id::text), format('request %%s: %%s of %%s entries', request_id, count(*), max(entries))
        FROM whatsapp_webhookevent
        WHERE id BETWEEN %(from_id)s AND %(to_id)s AND received_at >= %(since)s AND received_at < %(until)s
            AND status <> 'REJECTED'
        GROUP BY request_id, received_at, entries HAVING count(*) %% entries <> 0""",
    "items": """
        SELECT e.id::text, format('%%s items, %%s expected', count(i.id) FILTER (WHERE i.kind <> 'ignored'), e.queued)
        FROM whatsapp_webhookevent e LEFT JOIN whatsapp_webhookitem i ON i.event_id = e.id
        WHERE e.id BETWEEN %(from_id)s AND %(to_id)s AND e.received_at >= %(since)s AND e.received_at < %(until)s
            AND e.status = 'PROCESSED' AND e.session_id IS NOT NULL AND e.original_body IS NULL
        GROUP BY e.id HAVING count(i.id) FILTER (WHERE i.kind <> 'ignored') <> e.queued""",
    "pending": """
        SELECT id::text, format('pending since %%s', received_at) FROM whatsapp_webhookevent
        WHERE status = 'PENDING' AND due_at < %(late)s
        UNION ALL
        SELECT event_id::text, format('item %%s %%s (%%s)', index, fate, reason) FROM whatsapp_webhookitem
        WHERE fate IN ('pending', 'parked') AND due_at < %(late)s
        UNION ALL
        SELECT event_id::text, format('item %%s parked (%%s) past its limit', index, reason) FROM whatsapp_webhookitem
        WHERE fate = 'parked' AND expires_at < %(late)s AND due_at IS NULL""",
    "messages": """
        SELECT i.event_id::text, format('item %%s is stored, its message is not here', i.index)
        FROM whatsapp_webhookitem i LEFT JOIN tickets_message m ON m.id = i.message_id
        WHERE i.id BETWEEN %(from_id)s AND %(to_id)s AND i.fate = 'stored' AND m.id IS NULL""",
    "doubled": """
        SELECT message_id::text, format('stored %%s times', count(*)) FROM whatsapp_webhookitem
        WHERE id BETWEEN %(from_id)s AND %(to_id)s AND fate = 'stored' AND message_id IS NOT NULL
        GROUP BY message_id HAVING count(*) > 1""",
    # An item is written in the transaction of its message: their ids lie close together.
    "ledger": """
        SELECT m.id::text, 'no event brought this message' FROM tickets_message m
        WHERE m.id BETWEEN %(from_id)s AND %(to_id)s AND m.direction = 'INBOUND' AND m.external_id IS NOT NULL
            AND m.received_at >= %(since)s AND m.received_at < %(until)s AND m.source = 'CUSTOMER'
            AND NOT EXISTS (SELECT 1 FROM whatsapp_webhookitem i
                WHERE i.message_id = m.id AND i.id BETWEEN %(from_id)s AND %(last_id)s)""",
    "positions": """
        SELECT t.id::text, format('%%s messages, last position %%s', count(m.id), t.last_position)
        FROM tickets_ticket t LEFT JOIN tickets_message m ON m.ticket_id = t.id
        WHERE t.updated_at >= %(since)s
        GROUP BY t.id HAVING count(m.id) <> t.last_position OR coalesce(max(m.position), 0) <> t.last_position""",
}  # fmt: skip
_COUNTS = """
SELECT 'events.' || lower(status), count(*) FROM whatsapp_webhookevent
WHERE id BETWEEN %(from_id)s AND %(to_id)s AND received_at >= %(since)s AND received_at < %(until)s GROUP BY status
UNION ALL
SELECT 'items.' || i.fate, count(*) FROM whatsapp_webhookitem i JOIN whatsapp_webhookevent e ON e.id = i.event_id
WHERE e.id BETWEEN %(from_id)s AND %(to_id)s AND e.received_at >= %(since)s AND e.received_at < %(until)s
GROUP BY i.fate
UNION ALL
SELECT 'messages.' || lower(direction), count(*) FROM tickets_message
WHERE id BETWEEN %(from_id)s AND %(to_id)s AND received_at >= %(since)s AND received_at < %(until)s GROUP BY direction
ORDER BY 1
"""
STEPS = len(_CHECKS) + 1


def prove_no_loss(
    *, since: datetime, until: datetime, now: datetime, step: Callable[[str], None] = lambda _: None
) -> Proof:
    """Compare what was received within [since, until) with what is stored, over all tenants.

    `step` is called with the name of each check before it runs. Failed events, orphans and rejected bodies are
    counted, not reported: nothing of them is lost, and the dead-letter desk shows them.
    """
    proof = Proof(since, until)
    bounds: dict[str, Any] = {
        "since": since, "until": until, "from_id": _first_id(since - _SLACK), "to_id": _first_id(until + _SLACK),
        "last_id": _first_id(max(now, until) + _SLACK), "late": now - LIMIT, "most": LISTED,
    }  # fmt: skip
    with service_scope("proof of no loss"), connection.cursor() as cursor:
        step("counts")
        cursor.execute(_COUNTS, bounds)
        proof.counts = dict(cursor.fetchall())
        for name, sql in _CHECKS.items():
            step(name)
            cursor.execute(f"SELECT * FROM ({sql}) found LIMIT %(most)s", bounds)  # noqa: S608
            proof.differences += [Difference(name, key, detail) for key, detail in cursor.fetchall()]
    return proof


def count_pending(*, now: datetime) -> int:
    """How many events and items could be processed now, or wait for something that comes by itself within minutes."""
    with service_scope("proof of no loss"), connection.cursor() as cursor:
        cursor.execute(
            """SELECT (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PENDING')
                   + (SELECT count(*) FROM whatsapp_webhookitem WHERE fate IN ('pending', 'parked') AND due_at <= %s)
                   + (SELECT count(*) FROM whatsapp_webhookitem WHERE fate = 'pending' AND due_at > %s)""",
            [now, now],
        )
        return int(cursor.fetchone()[0])


def _first_id(at: datetime) -> UUID:
    """The least uuid7 that a row made at `at` can have."""
    return UUID(int=max(0, int(at.timestamp() * 1000)) << 80)
