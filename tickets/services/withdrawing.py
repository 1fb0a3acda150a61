"""Scheduled messages that lose their point: the customer wrote first, or the ticket ended (spec/outbound.md 10)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine import metrics
from leadengine.sql import dumps, loads
from tickets.services.announce import Place, announce_change
from tickets.services.senders import wake_successors

CUSTOMER_REPLY, TICKET_CLOSED = "CUSTOMER_REPLY", "TICKET_CLOSED"  # metadata.canceledBy

# The index of what is scheduled for a contact has few rows, so asking it costs arriving messages next to nothing.
# In the thread a canceled row stands where it was canceled: its time has not come and never will.
_WITHDRAW = """
WITH gone AS (
    UPDATE tickets_message m SET status = 'CANCELED', sent_at = %(now)s, wait_reason = NULL, not_before = NULL,
        error = NULL, metadata = m.metadata || %(why)s::jsonb, version = m.version + 1
    WHERE m.id = ANY(ARRAY(
        SELECT m.id FROM tickets_message m
        WHERE m.tenant_id = %(tenant)s AND m.contact_id = ANY(%(contacts)s) AND m.scheduled_at IS NOT NULL
            AND m.status IN ('SCHEDULED', 'QUEUED') AND {rule}
        ORDER BY m.id FOR UPDATE
    ))
    RETURNING m.*
)
SELECT g.tenant_id, g.ticket_id, t.queue_id, t.assignee_id, g.id, g.position, g.version, g.metadata, g.source, g.type
FROM gone g JOIN tickets_ticket t ON t.id = g.ticket_id
"""
_BY_REPLY = "m.cancel_if_customer_replies"
_BY_END = "m.ticket_id = ANY(%(tickets)s)"


def withdraw_for_replies(*, tenant_id: UUID, contact_ids: Collection[UUID], now: datetime) -> int:
    """Cancel what was scheduled for contacts who wrote, unless its author wanted it sent all the same; how many.

    Here as below also what is due but has not left yet. message.updated tells the author, with `metadata.canceledBy`.
    """
    return _withdraw(_BY_REPLY, CUSTOMER_REPLY, tenant_id, {"contacts": list(contact_ids)}, now)


def withdraw_for_end(
    *, tenant_id: UUID, contact_ids: Collection[UUID], ticket_ids: Collection[UUID], now: datetime
) -> int:
    """Cancel what was scheduled in tickets, of these contacts, that ended; how many."""
    given = {"contacts": list(contact_ids), "tickets": list(ticket_ids)}
    return _withdraw(_BY_END, TICKET_CLOSED, tenant_id, given, now)


def _withdraw(rule: str, why: str, tenant_id: UUID, given: dict[str, Any], now: datetime) -> int:
    if not given["contacts"]:
        return 0
    parameters = {"now": now, "why": dumps({"canceledBy": why}), "tenant": tenant_id, **given}
    with connection.cursor() as cursor:
        cursor.execute(_WITHDRAW.format(rule=rule), parameters)
        rows = cursor.fetchall()
    for row in rows:
        changes = {
            "status": "CANCELED", "sent_at": now, "wait_reason": None, "not_before": None, "error": None,
            "metadata": loads(row[7]),
        }  # fmt: skip
        announce_change(place=Place(*row[:6]), version=row[6], changes=changes, now=now)
        metrics.count(metrics.outbound.labels(origin=row[8].lower(), type=row[9].lower(), status="canceled"))
    if rows:
        wake_successors(ticket_ids={row[1] for row in rows})
    return len(rows)
