"""The atendimento rows follow their tickets (spec/sessions.md section 9)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connection

from leadengine.sql import unnest
from tickets.services.arrivals import NewMessage
from whatsapp.services.persistence import persist

if TYPE_CHECKING:
    from whatsapp.services.batch import Line

_PRIORITY = {"LOW": "BAIXA", "NORMAL": "NORMAL", "HIGH": "ALTA", "URGENT": "URGENTE"}
_STATUS = {"OPEN": "ATIVO", "ASSIGNED": "ATIVO", "PENDING": "PAUSADO", "RESOLVED": "FECHADO", "CLOSED": "FECHADO"}


def follow_arrivals(*, tenant_id: UUID, rows: Sequence[tuple[NewMessage, Line, str]]) -> None:
    """Give each live ticket that got a message its open row, with state, preview, time and unread count."""
    latest = {message.ticket.id: (message.ticket, line, chat) for message, line, chat in rows}
    live = [
        (
            ticket.id, chat, line.owner_id, line.connection_id, ticket.assignee_id, _PRIORITY[ticket.priority],
            ticket.last_message_preview, ticket.last_message_at, ticket.unanswered_count, _STATUS[ticket.status],
        )
        for ticket, line, chat in latest.values()
        if ticket.status in {"OPEN", "ASSIGNED", "PENDING"}
    ]  # fmt: skip
    if live:
        persist("atendimento.follow", lambda: _follow(tenant_id, live))


def _follow(tenant_id: UUID, live: Sequence[tuple[Any, ...]]) -> None:
    source, arrays = unnest(
        {
            "ticket_id": "uuid", "chat_id": "text", "owner_id": "uuid", "connection_id": "text", "assigned_to": "uuid",
            "priority": "text", "preview": "text", "at": "timestamptz", "unread": "int", "state": "text",
        },
        sorted(live, key=lambda row: row[0]),
    )  # fmt: skip
    names = "(ticket_id, chat_id, owner_id, connection_id, assigned_to, priority, preview, at, unread, state)"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""UPDATE whatsapp_atendimentos a SET status = u.state, assigned_to = u.assigned_to,
                    last_message_preview = u.preview, last_message_at = u.at, unread_count = u.unread
                FROM {source} AS u {names}
                WHERE a.ticket_id = u.ticket_id AND a.status <> 'FECHADO' AND a.tenant_id = %s
                RETURNING a.ticket_id""",  # noqa: S608
            [*arrays, tenant_id],
        )
        have = {row[0] for row in cursor.fetchall()}
        if len(have) < len(live):
            # The chat is locked, so nobody else makes this row; an upsert is never used on the protected tables.
            cursor.execute(
                f"""INSERT INTO whatsapp_atendimentos (tenant_id, ticket_id, chat_id, owner_id, connection_id,
                        assigned_to, priority, last_message_preview, last_message_at, unread_count, status)
                    SELECT %s, u.* FROM {source} AS u {names} WHERE NOT u.ticket_id = ANY(%s)
                        AND NOT EXISTS (SELECT 1 FROM whatsapp_atendimentos a WHERE a.owner_id = u.owner_id
                            AND a.connection_id = u.connection_id AND a.chat_id = u.chat_id AND a.status = 'ATIVO')""",  # noqa: S608
                [tenant_id, *arrays, list(have)],
            )


def follow_ticket(*, tenant_id: UUID, ticket_id: UUID, now: datetime) -> None:
    """Bring the open row of a ticket in line with it: status, assignee, priority, unread; ended closes it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT status, assignee_id, priority, unanswered_count, closed_by_id FROM tickets_ticket WHERE id = %s",
            [ticket_id],
        )
        status, assignee_id, priority, unread, closed_by = cursor.fetchone()
        ended = _STATUS[status] == "FECHADO"
        cursor.execute(
            """UPDATE whatsapp_atendimentos SET status = %s, assigned_to = %s, priority = %s, unread_count = %s,
                   closed_at = %s, closed_by = %s
               WHERE tenant_id = %s AND ticket_id = %s AND status <> 'FECHADO'""",
            [
                _STATUS[status], assignee_id, _PRIORITY[priority], unread, now if ended else None, closed_by, tenant_id,
                ticket_id,
            ],
        )  # fmt: skip
