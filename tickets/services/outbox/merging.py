"""When an answer brings an id that an echo row already has: the two become one, and ours stays.

It is rare: an echo is parked while a send to its chat is in flight. It takes a lease that ended before the answer came,
and an echo whose text the broker had altered, so that it was stored as typed on the phone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine.sql import dumps
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.outbox.claiming import Claim

_RANK = {"SENT": 0, "FAILED": 1, "DELIVERED": 2, "READ": 3}


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What ours takes over from the echo row, and the ticket that the echo row stood in."""

    ticket_id: UUID
    changes: dict[str, Any]


def absorb_echo(*, claim: Claim, external_id: str, asked: str, now: datetime) -> Absorbed:
    """Take the id from the echo row that has it.

    Positions have no gaps and are never given twice, or clients would miss a message: so the echo row keeps its place
    as a CANCELED row of the phone with `metadata.mergedInto`, which nobody is shown and nothing counts. All that hung
    on it (acks, reactions, quotes) moves to ours.
    """
    ours, session_id = claim.order.message_id, claim.order.line.id
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT m.id, m.ticket_id, m.position, m.contact_id, m.status, m.sent_at, m.delivered_at, m.read_at,
                   m.played_at, m.failed_at, m.error, m.content, m.caption, t.queue_id, t.assignee_id
               FROM tickets_message m JOIN tickets_ticket t ON t.id = m.ticket_id
               WHERE m.tenant_id = %s AND m.session_id = %s AND m.external_id = %s AND m.id <> %s FOR UPDATE OF m""",
            [claim.place.tenant_id, session_id, external_id, ours],
        )
        row = cursor.fetchone()
        echo_id, ticket_id, position, contact_id, status = row[:5]
        cursor.execute(
            """UPDATE tickets_message SET external_id = NULL, status = 'CANCELED', version = version + 1,
                   metadata = metadata || %s::jsonb WHERE id = %s RETURNING version""",
            [dumps({"mergedInto": str(ours)}), echo_id],
        )
        version = cursor.fetchone()[0]
        for table in ("tickets_messagereaction", "tickets_messagerevision"):
            cursor.execute(f"UPDATE {table} SET message_id = %s WHERE message_id = %s", [ours, echo_id])  # noqa: S608
        cursor.execute(
            "UPDATE tickets_message SET reply_to_id = %s WHERE contact_id = ANY(%s) AND reply_to_id = %s",
            [ours, [claim.contact_id, contact_id], echo_id],
        )
    place = Place(claim.place.tenant_id, ticket_id, row[13], row[14], echo_id, position)
    announce_change(place=place, version=version, changes={"status": "CANCELED", "mergedInto": str(ours)}, now=now)
    return Absorbed(ticket_id, _taken_over(row, asked, status))


def _taken_over(row: Any, asked: str, status: str) -> dict[str, Any]:
    names = ("sent_at", "delivered_at", "read_at", "played_at", "failed_at", "error")
    changes = {name: value for name, value in zip(names, row[5:11], strict=True) if value is not None}
    if _RANK.get(status, 0) > 0:
        changes["status"] = status
    content, caption = row[11:13]
    if (content + caption).strip() != asked.strip():
        # What left is shown, what was asked is kept: a broker may alter a text.
        changes |= {"content": content, "caption": caption, "metadata": {"requestedText": asked}}
    return changes
