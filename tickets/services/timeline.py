"""What a ticket's counters and timeline are: the definition that the running figures must equal.

A message counts when it came, or when it has left (SENT, DELIVERED, READ). What a person sees is in the order of
(sent_at, position). By that order:

- first and last are the least and greatest `sent_at`; last_message is the newest;
- unanswered is what came after our last one; waiting_since is the time of the one of those that arrived first, so that
  a late message does not lengthen the wait;
- first_response_seconds run from the first of theirs to the first of ours that was sent then or later.

last_position and last_event_seq are never lower than what is stored: a number that was given is not given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from pydantic.alias_generators import to_camel

from tickets.services.shapes import iso, preview_of
from tickets.services.state import COLUMNS, SELECT, TicketState

_NAMES = (
    "message_count", "inbound_count", "outbound_count", "unanswered_count", "waiting_since", "first_inbound_at",
    "last_inbound_at", "first_outbound_at", "last_outbound_at", "first_response_seconds", "last_direction",
    "last_message_at", "last_message_id",
)  # fmt: skip
_NOTHING: tuple[Any, ...] = (0, 0, 0, 0, None, None, None, None, None, None, None, None, None, "", "", False)

_COMPUTED = """
WITH counted AS (
    SELECT m.ticket_id, m.id, m.position, m.direction = 'INBOUND' AS inbound, m.sent_at,
        min(m.sent_at) FILTER (WHERE m.direction = 'INBOUND') OVER (PARTITION BY m.ticket_id) AS began
    FROM tickets_message m
    WHERE m.tenant_id = %(tenant)s AND m.ticket_id = ANY(%(ids)s)
        AND (m.direction = 'INBOUND' OR m.status IN ('SENT', 'DELIVERED', 'READ'))
), answered AS (
    SELECT DISTINCT ON (ticket_id) ticket_id, sent_at, position FROM counted WHERE NOT inbound
    ORDER BY ticket_id, sent_at DESC, position DESC
), newest AS (
    SELECT DISTINCT ON (ticket_id) ticket_id, id FROM counted ORDER BY ticket_id, sent_at DESC, position DESC
), summed AS (
    SELECT c.ticket_id, count(*) AS messages,
        count(*) FILTER (WHERE c.inbound) AS received, count(*) FILTER (WHERE NOT c.inbound) AS sent,
        count(*) FILTER (WHERE c.waits) AS unanswered,
        (array_agg(c.sent_at ORDER BY c.position) FILTER (WHERE c.waits))[1] AS waiting_since,
        min(c.sent_at) FILTER (WHERE c.inbound) AS first_in, max(c.sent_at) FILTER (WHERE c.inbound) AS last_in,
        min(c.sent_at) FILTER (WHERE NOT c.inbound) AS first_out,
        max(c.sent_at) FILTER (WHERE NOT c.inbound) AS last_out,
        min(c.sent_at) FILTER (WHERE NOT c.inbound AND c.sent_at >= c.began) - min(c.began) AS response
    FROM (
        SELECT k.*, k.inbound AND (a.sent_at IS NULL OR (k.sent_at, k.position) > (a.sent_at, a.position)) AS waits
        FROM counted k LEFT JOIN answered a USING (ticket_id)
    ) c GROUP BY c.ticket_id
)
SELECT s.ticket_id, s.messages, s.received, s.sent, s.unanswered, s.waiting_since, s.first_in, s.last_in, s.first_out,
    s.last_out, floor(extract(epoch FROM s.response))::int, m.direction, m.sent_at, m.id, m.type,
    m.content || m.caption, m.revoked_at IS NOT NULL
FROM summed s JOIN newest n USING (ticket_id) JOIN tickets_message m ON m.id = n.id
"""
# One statement sees one moment, and a message commits together with its ticket: so what differs here is wrong, whoever
# writes at the same time.
_COMPARED = f"""
SELECT {SELECT}, t.protocol,
    greatest(t.last_position, (SELECT max(p.position) FROM tickets_message p WHERE p.ticket_id = t.id)),
    greatest(t.last_event_seq, (SELECT max(e.seq) FROM tickets_ticketevent e WHERE e.ticket_id = t.id),
        (SELECT max(n.seq) FROM tickets_note n WHERE n.ticket_id = t.id)), c.*
FROM tickets_ticket t LEFT JOIN ({_COMPUTED}) c ON c.ticket_id = t.id
WHERE t.tenant_id = %(tenant)s AND t.id = ANY(%(ids)s) ORDER BY t.number
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Drift:
    """A ticket whose columns are not what its messages say. `changes` is {column: (stored, computed)}."""

    state: TicketState
    protocol: str
    changes: dict[str, tuple[Any, Any]]

    def repair(self) -> TicketState:
        """The row as it should be, in memory."""
        for name, (_, computed) in self.changes.items():
            setattr(self.state, name, computed)
        return self.state

    def shown(self) -> dict[str, tuple[Any, Any]]:
        """The changes by the names and in the forms of the wire."""
        return {to_camel(name): (_plain(old), _plain(new)) for name, (old, new) in self.changes.items()}


def recount(*, tenant_id: UUID, states: Sequence[TicketState]) -> None:
    """Set counters and timeline of locked tickets, in memory, to what their stored messages say."""
    if not states:
        return
    with connection.cursor() as cursor:
        cursor.execute(_COMPUTED, {"tenant": tenant_id, "ids": [state.id for state in states]})
        computed = {row[0]: row[1:] for row in cursor.fetchall()}
    for state in states:
        for name, value in _columns(computed.get(state.id, _NOTHING)).items():
            setattr(state, name, value)
        state.stale = False


def recount_stale(*, tenant_id: UUID, states: Sequence[TicketState]) -> None:
    """The same for those that their columns left in doubt. Call it when the messages are written."""
    recount(tenant_id=tenant_id, states=[state for state in states if state.stale])


def find_drifts(*, tenant_id: UUID, ids: Sequence[UUID]) -> list[Drift]:
    """Those of the tickets whose columns are wrong now, by number. Locks nothing and waits for nobody."""
    with connection.cursor() as cursor:
        cursor.execute(_COMPARED, {"tenant": tenant_id, "ids": list(ids)})
        rows = cursor.fetchall()
    drifts = []
    for row in rows:
        state = TicketState(*row[: len(COLUMNS)])
        protocol, position, seq, known, *computed = row[len(COLUMNS) :]
        wanted = _columns(computed if known else _NOTHING) | {"last_position": position, "last_event_seq": seq}
        pairs = {name: (getattr(state, name), value) for name, value in wanted.items()}
        changes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if changes:
            drifts.append(Drift(state, protocol, changes))
    return drifts


def refresh_preview(*, tenant_id: UUID, ticket_id: UUID, message_id: UUID) -> None:
    """The text of a message changed: where it is its ticket's last one, the preview follows."""
    with connection.cursor() as cursor:
        # The lock comes first and alone: who holds it may be making this message the last one.
        cursor.execute(
            "SELECT last_message_id FROM tickets_ticket WHERE id = %s AND tenant_id = %s FOR UPDATE",
            [ticket_id, tenant_id],
        )
        if cursor.fetchone()[0] != message_id:
            return
        cursor.execute(
            "SELECT type, content || caption, revoked_at IS NOT NULL FROM tickets_message WHERE id = %s", [message_id]
        )
        kind, text, revoked = cursor.fetchone()
        cursor.execute(
            "UPDATE tickets_ticket SET last_message_preview = %s WHERE id = %s",
            [preview_of(kind, text, revoked=revoked), ticket_id],
        )


def _columns(computed: Sequence[Any]) -> dict[str, Any]:
    *values, kind, text, revoked = computed
    columns = dict(zip(_NAMES, values, strict=True))
    columns["last_message_preview"] = preview_of(kind, text, revoked=revoked) if columns["last_message_id"] else ""
    return columns


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | str | None) else iso(value) if isinstance(value, datetime) else str(value)
