"""Counters and timeline recomputed from the stored messages: the definition that the running figures must equal.

Used where a message stops counting (an ack says that it failed) or counts out of turn, and by the reconciliation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import connection

from tickets.services.shapes import preview_of
from tickets.services.state import TicketState

# What counts: everything that came, and what of ours has left. Unanswered is what came after our last one, by what a
# person sees: (sent_at, position). Waiting began with the first of those to arrive.
_COMPUTE = """
WITH counted AS (
    SELECT m.ticket_id, m.id, m.position, m.direction, m.type, m.content || m.caption AS text, m.sent_at
    FROM tickets_message m
    WHERE m.tenant_id = %s AND m.ticket_id = ANY(%s)
        AND (m.direction = 'INBOUND' OR m.status IN ('SENT', 'DELIVERED', 'READ'))
), answered AS (
    SELECT DISTINCT ON (ticket_id) ticket_id, sent_at, position FROM counted WHERE direction = 'OUTBOUND'
    ORDER BY ticket_id, sent_at DESC, position DESC
), newest AS (
    SELECT DISTINCT ON (ticket_id) * FROM counted ORDER BY ticket_id, sent_at DESC, position DESC
)
SELECT c.ticket_id, count(*),
    count(*) FILTER (WHERE c.direction = 'INBOUND'),
    count(*) FILTER (WHERE c.direction = 'OUTBOUND'),
    count(*) FILTER (WHERE c.unanswered), (array_agg(c.sent_at ORDER BY c.position) FILTER (WHERE c.unanswered))[1],
    min(c.sent_at) FILTER (WHERE c.direction = 'INBOUND'), max(c.sent_at) FILTER (WHERE c.direction = 'INBOUND'),
    min(c.sent_at) FILTER (WHERE c.direction = 'OUTBOUND'), max(c.sent_at) FILTER (WHERE c.direction = 'OUTBOUND'),
    n.direction, n.sent_at, n.id, n.type, n.text
FROM (
    SELECT k.*, k.direction = 'INBOUND'
        AND (a.sent_at IS NULL OR (k.sent_at, k.position) > (a.sent_at, a.position)) AS unanswered
    FROM counted k LEFT JOIN answered a USING (ticket_id)
) c JOIN newest n USING (ticket_id)
GROUP BY c.ticket_id, n.direction, n.sent_at, n.id, n.type, n.text
"""
_EMPTY: tuple[Any, ...] = (0, 0, 0, 0, None, None, None, None, None, None, None, None, "TEXT", "")


def recount(*, tenant_id: UUID, states: Sequence[TicketState]) -> None:
    """Set counters and timeline of locked tickets, in memory, to what their stored messages say."""
    with connection.cursor() as cursor:
        cursor.execute(_COMPUTE, [tenant_id, [state.id for state in states]])
        computed = {row[0]: row[1:] for row in cursor.fetchall()}
    for state in states:
        (
            state.message_count, state.inbound_count, state.outbound_count, state.unanswered_count,
            state.waiting_since, state.first_inbound_at, state.last_inbound_at, state.first_outbound_at,
            state.last_outbound_at, state.last_direction, state.last_message_at, state.last_message_id, kind, text,
        ) = computed.get(state.id, _EMPTY)  # fmt: skip
        state.last_message_preview = preview_of(kind, text) if state.last_message_id else ""
        first_in, first_out = state.first_inbound_at, state.first_outbound_at
        answered = first_in is not None and first_out is not None and first_out >= first_in
        state.first_response_seconds = int((first_out - first_in).total_seconds()) if answered else None
