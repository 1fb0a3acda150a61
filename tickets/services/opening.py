"""Which ticket a message belongs to: the open one, a reopened one, or a new one (spec/tickets-leads.md 2, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection

from leadengine import metrics
from leadengine.errors import DomainError
from leadengine.ids import uuid7
from leadengine.sql import insert_rows, unnest
from tickets.services.state import COLUMNS, SELECT, TicketState, lock_tickets

Pair = tuple[UUID, UUID]  # (contact, session)


class QueueMissing(DomainError):
    """Não há fila ativa: crie ou ative uma fila para receber conversas."""

    code = "QUEUE_MISSING"
    status = 409


@dataclass(slots=True)
class Wanted:
    """One arrival, as far as the choice of its ticket goes. `opens` is false for messages typed on the phone."""

    pair: Pair
    at: datetime
    opens: bool
    queue_id: UUID | None  # the session's default queue


@dataclass(slots=True)
class _Ended:
    state: TicketState
    may_reopen: bool
    window: timedelta
    assignee_stays: bool


def find_tickets(*, tenant_id: UUID, wanted: Sequence[Wanted], now: datetime) -> list[TicketState | None]:
    """Lock the ticket of each arrival, reopening or opening where the rules say so. None: no active queue.

    Result i belongs to wanted[i]. At most one live ticket per (contact, session), by the partial unique index.
    """
    pairs = list(dict.fromkeys(item.pair for item in wanted))
    live = _lock_live(tenant_id, pairs)
    ended = _find_ended(tenant_id, [pair for pair in pairs if pair not in live])
    missing: dict[Pair, Wanted] = {}
    for item in wanted:
        if item.pair in live or _stays_ended(item, ended.get(item.pair)):
            continue
        last = ended.get(item.pair)
        if last and item.opens and last.may_reopen and item.at - (last.state.closed_at or now) <= last.window:
            live[item.pair] = _reopen(last, now)
        else:
            missing.setdefault(item.pair, item)
    if missing:
        live.update(open_tickets(tenant_id=tenant_id, wanted=list(missing.values()), now=now))
    found: list[TicketState | None] = []
    for item in wanted:
        last = ended.get(item.pair)
        # A message sent before the ticket ended is stored in it, also when another one was opened meanwhile.
        old = last.state if last and last.state.closed_at and _stays_ended(item, last) else None
        found.append(old or live.get(item.pair))
    return found


def open_tickets(*, tenant_id: UUID, wanted: Sequence[Wanted], now: datetime) -> dict[Pair, TicketState]:
    """Open a ticket per pair in its queue, numbered in order; a pair that lost a race gets the winner's ticket.

    Pairs are left out when the tenant has no active queue.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM tickets_queue WHERE tenant_id = %s AND is_active "
            "ORDER BY is_default DESC, order_index, name",
            [tenant_id],
        )
        queues = [row[0] for row in cursor.fetchall()]
        if not queues:
            return {}
        cursor.execute("SELECT timezone FROM accounts_tenant WHERE id = %s", [tenant_id])
        day = now.astimezone(ZoneInfo(cursor.fetchone()[0])).strftime("%Y%m%d")
        cursor.execute(
            """INSERT INTO tickets_ticketcounter AS c (tenant_id, last_number) VALUES (%s, %s)
               ON CONFLICT (tenant_id) DO UPDATE SET last_number = c.last_number + excluded.last_number
               RETURNING last_number""",
            [tenant_id, len(wanted)],
        )
        first = cursor.fetchone()[0] - len(wanted) + 1
        rows = [
            (
                uuid7(), tenant_id, number, f"{day}{number:06d}", item.pair[0], item.pair[1],
                item.queue_id if item.queue_id in queues else queues[0],
            )
            for number, item in enumerate(wanted, first)
        ]  # fmt: skip
        insert_rows(
            cursor,
            "tickets_ticket",
            {
                "id": "uuid", "tenant_id": "uuid", "number": "bigint", "protocol": "text", "contact_id": "uuid",
                "session_id": "uuid", "queue_id": "uuid",
            },
            rows,
            "ON CONFLICT (contact_id, session_id) WHERE status IN ('OPEN', 'PENDING', 'ASSIGNED') DO NOTHING "
            "RETURNING id",
        )  # fmt: skip
        made = {row[0] for row in cursor.fetchall()}
    live = _lock_live(tenant_id, [item.pair for item in wanted])
    for state in live.values():
        if state.id in made:
            state.is_new = True
            state.note_entry("OPENED", at=now)
            metrics.count(metrics.tickets_opened.labels(cause="inbound"))
    return live


def _lock_live(tenant_id: UUID, pairs: Sequence[Pair]) -> dict[Pair, TicketState]:
    if not pairs:
        return {}
    source, arrays = unnest({"contact_id": "uuid", "session_id": "uuid"}, list(pairs))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT {SELECT} FROM {source} AS w (contact_id, session_id)
                JOIN tickets_ticket t ON t.contact_id = w.contact_id AND t.session_id = w.session_id
                WHERE t.tenant_id = %s AND t.status IN ('OPEN', 'PENDING', 'ASSIGNED')
                ORDER BY t.id FOR UPDATE OF t""",  # noqa: S608
            [*arrays, tenant_id],
        )
        states = [TicketState(*row) for row in cursor.fetchall()]
    return {(state.contact_id, state.session_id): state for state in states if state.session_id}


def _find_ended(tenant_id: UUID, pairs: Sequence[Pair]) -> dict[Pair, _Ended]:
    """The latest ended ticket of each pair, locked, with what decides whether it may reopen.

    One that ended because its contact was merged went on in the other ticket: it is left out.
    """
    if not pairs:
        return {}
    source, arrays = unnest({"contact_id": "uuid", "session_id": "uuid"}, list(pairs))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT t.id, r.allows_reopen, q.reopen_window_minutes, coalesce(u.is_active
                    AND (u.role <> 'AGENT' OR EXISTS (SELECT 1 FROM tickets_queuemembership m
                         WHERE m.user_id = u.id AND m.queue_id = t.queue_id)), false)
                FROM {source} AS w (contact_id, session_id)
                JOIN LATERAL (SELECT id, queue_id, close_reason_id, assignee_id FROM tickets_ticket e
                     WHERE e.tenant_id = %s AND e.contact_id = w.contact_id AND e.session_id = w.session_id
                         AND NOT EXISTS (SELECT 1 FROM tickets_closereason m
                             WHERE m.id = e.close_reason_id AND m.code = 'MERGED')
                     ORDER BY e.number DESC LIMIT 1) t ON true
                JOIN tickets_queue q ON q.id = t.queue_id
                JOIN tickets_closereason r ON r.id = t.close_reason_id
                LEFT JOIN accounts_user u ON u.id = t.assignee_id""",  # noqa: S608
            [*arrays, tenant_id],
        )
        rules = {row[0]: row[1:] for row in cursor.fetchall()}
    ended = {}
    for state in lock_tickets(tenant_id=tenant_id, ids=list(rules)).values():
        may, minutes, stays = rules[state.id]
        if state.closed_at and state.session_id:
            ended[state.contact_id, state.session_id] = _Ended(state, may, timedelta(minutes=minutes), stays)
    return ended


def _stays_ended(item: Wanted, last: _Ended | None) -> bool:
    return last is not None and last.state.closed_at is not None and (not item.opens or item.at <= last.state.closed_at)


def _reopen(last: _Ended, now: datetime) -> TicketState:
    state = last.state
    state.note_entry("REOPENED", at=now, from_=state.status)
    state.status = "ASSIGNED" if last.assignee_stays else "OPEN"
    state.assignee_id = state.assignee_id if last.assignee_stays else None
    state.closed_at = state.closed_by_id = state.close_reason_id = None
    state.close_note = ""
    state.reopened_count += 1
    metrics.count(metrics.tickets_reopened)
    return state


__all__ = ["COLUMNS", "Pair", "QueueMissing", "Wanted", "find_tickets", "open_tickets"]
