"""Tickets as the services hold them: rows locked in id order, changed in memory, written with one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper
from pydantic.alias_generators import to_camel

from leadengine.ids import uuid7
from leadengine.sql import insert_rows, unnest

TIMELINE = (
    "first_inbound_at", "last_inbound_at", "first_outbound_at", "last_outbound_at", "last_direction",
    "last_message_at", "message_count", "inbound_count", "outbound_count", "unanswered_count", "waiting_since",
    "first_response_seconds",
)  # fmt: skip
_WIRE = [to_camel(name) for name in TIMELINE]
_SECOND = timedelta(seconds=1)
_snapshot = attrgetter(*TIMELINE)
_TYPES = {
    "id": "uuid", "queue_id": "uuid", "assignee_id": "uuid", "status": "text", "pending_reason": "text",
    "snoozed_until": "timestamptz", "close_reason_id": "uuid", "close_note": "text", "closed_at": "timestamptz",
    "closed_by_id": "uuid", "reopened_count": "int", "version": "bigint", "last_position": "bigint",
    "last_event_seq": "bigint", "message_count": "int", "inbound_count": "int", "outbound_count": "int",
    "unanswered_count": "int", "waiting_since": "timestamptz", "first_inbound_at": "timestamptz",
    "last_inbound_at": "timestamptz", "first_outbound_at": "timestamptz", "last_outbound_at": "timestamptz",
    "last_direction": "text", "last_message_at": "timestamptz", "last_message_id": "uuid",
    "last_message_preview": "text", "first_response_seconds": "int",
}  # fmt: skip


@dataclass(slots=True)
class TicketState:
    """One locked row. `entries` are the TicketEvents to write with it.

    `stale`: the columns alone cannot tell what a message changed; `timeline.recount_stale` asks the stored ones.
    """

    id: UUID
    number: int
    contact_id: UUID
    session_id: UUID | None
    priority: str
    subject: str
    queue_id: UUID
    assignee_id: UUID | None
    status: str
    pending_reason: str | None
    snoozed_until: datetime | None
    close_reason_id: UUID | None
    close_note: str
    closed_at: datetime | None
    closed_by_id: UUID | None
    reopened_count: int
    version: int
    last_position: int
    last_event_seq: int
    message_count: int
    inbound_count: int
    outbound_count: int
    unanswered_count: int
    waiting_since: datetime | None
    first_inbound_at: datetime | None
    last_inbound_at: datetime | None
    first_outbound_at: datetime | None
    last_outbound_at: datetime | None
    last_direction: str | None
    last_message_at: datetime | None
    last_message_id: UUID | None
    last_message_preview: str
    first_response_seconds: int | None
    is_new: bool = False
    stale: bool = False
    previous_queue_id: UUID | None = None
    previous_assignee_id: UUID | None = None
    before: tuple[Any, ...] = ()
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.previous_queue_id, self.previous_assignee_id = self.queue_id, self.assignee_id
        self.before = self.snapshot()

    def count_message(
        self, *, message_id: UUID, inbound: bool, sent: datetime, preview: str, newest: bool = True
    ) -> None:
        """Move counters and timeline for a message that came or left (rules: services/timeline.py).

        `newest`: it has the ticket's highest position, as whatever arrives. An older message moves neither the preview
        nor the maxima.
        """
        self.message_count += 1
        last = self.last_message_at
        if last is None or sent > last or (newest and sent == last):
            self.last_message_at, self.last_message_id, self.last_message_preview = sent, message_id, preview
            self.last_direction = "INBOUND" if inbound else "OUTBOUND"
        elif sent == last:
            self.stale = True
        if inbound:
            self._count_inbound(sent)
        else:
            self._count_outbound(sent, newest)

    def _count_inbound(self, sent: datetime) -> None:
        self.inbound_count += 1
        if self.last_outbound_at is None or sent >= self.last_outbound_at:
            self.unanswered_count += 1
            self.waiting_since = self.waiting_since or sent
        self.last_inbound_at = max(sent, self.last_inbound_at or sent)
        if self.first_inbound_at is not None and sent >= self.first_inbound_at:
            return
        self.first_inbound_at = sent
        self.first_response_seconds = None
        if self.first_outbound_at is not None and self.first_outbound_at >= sent:
            self.first_response_seconds = (self.first_outbound_at - sent) // _SECOND
        elif self.last_outbound_at is not None and self.last_outbound_at >= sent:
            self.stale = True

    def _count_outbound(self, sent: datetime, newest: bool) -> None:
        self.outbound_count += 1
        if self.unanswered_count and self.last_inbound_at is not None:
            if sent > self.last_inbound_at or (newest and sent == self.last_inbound_at):
                self.unanswered_count, self.waiting_since = 0, None
            elif self.last_outbound_at is None or sent >= self.last_outbound_at:
                self.stale = True
        self.first_outbound_at = min(sent, self.first_outbound_at or sent)
        self.last_outbound_at = max(sent, self.last_outbound_at or sent)
        if self.first_inbound_at is not None and sent >= self.first_inbound_at:
            seconds = (sent - self.first_inbound_at) // _SECOND
            known = self.first_response_seconds
            self.first_response_seconds = seconds if known is None else min(known, seconds)

    def snapshot(self) -> tuple[Any, ...]:
        """The timeline as it is now, to compare with later."""
        return _snapshot(self)

    def timeline_delta(self) -> dict[str, Any]:
        """The timeline keys (camelCase, ISO dates) that changed since the lock."""
        return delta_of(self.before, self.snapshot())

    def note_entry(
        self, kind: str, *, at: datetime, actor_id: UUID | None = None, from_: str = "", to: str = "", reason: str = ""
    ) -> Entry:
        """Add a TicketEvent in the ticket's own sequence."""
        self.last_event_seq += 1
        entry = Entry(self.last_event_seq, kind, at, actor_id, from_, to, reason)
        self.entries.append(entry)
        return entry


@dataclass(slots=True)
class Entry:
    """A TicketEvent to be written."""

    seq: int
    kind: str
    at: datetime
    actor_id: UUID | None
    from_: str
    to: str
    reason: str


COLUMNS = [f.name for f in fields(TicketState)][:33]
SELECT = ", ".join(f"t.{name}" for name in COLUMNS)


def lock_tickets(*, tenant_id: UUID, ids: Sequence[UUID], wait: bool = True) -> dict[UUID, TicketState]:
    """Lock tickets of a tenant in id order and return them; those that do not exist are left out.

    Without `wait` those that somebody else holds are left out, too.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {SELECT} FROM tickets_ticket t WHERE t.tenant_id = %s AND t.id = ANY(%s) ORDER BY t.id "  # noqa: S608
            f"FOR UPDATE {'' if wait else 'SKIP LOCKED'}",
            [tenant_id, sorted(set(ids))],
        )
        return {row[0]: TicketState(*row) for row in cursor.fetchall()}


def save_tickets(*, tenant_id: UUID, states: Sequence[TicketState]) -> None:
    """Write changed tickets with one statement and raise their version, and their new TicketEvents with another."""
    if not states:
        return
    for state in states:
        state.version += 1
    names = list(_TYPES)
    source, arrays = unnest(
        _TYPES, [[getattr(state, name) for name in names] for state in sorted(states, key=lambda s: s.id)]
    )
    changes = ", ".join(f"{name} = u.{name}" for name in names[1:])
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE tickets_ticket t SET {changes} FROM {source} AS u ({', '.join(names)}) "  # noqa: S608
            "WHERE t.id = u.id AND t.tenant_id = %s",
            [*arrays, tenant_id],
        )
        _insert_entries(cursor, tenant_id, states)


def delta_of(before: tuple[Any, ...], after: tuple[Any, ...]) -> dict[str, Any]:
    """The timeline keys (camelCase, ISO dates) that differ between two snapshots."""
    return {wire: _plain(new) for wire, old, new in zip(_WIRE, before, after, strict=True) if new != old}


def timeline_of(state: TicketState | Any) -> dict[str, Any]:
    """The whole timeline in camelCase with ISO dates, from a state or a Ticket row."""
    return {wire: _plain(value) for wire, value in zip(_WIRE, _snapshot(state), strict=True)}


def _insert_entries(cursor: CursorWrapper, tenant_id: UUID, states: Sequence[TicketState]) -> None:
    rows = [
        (
            uuid7(), tenant_id, state.id, entry.seq, entry.kind, entry.actor_id, "user" if entry.actor_id else "system",
            entry.from_, entry.to, entry.reason, entry.at,
        )
        for state in states
        for entry in state.entries
    ]  # fmt: skip
    insert_rows(
        cursor,
        "tickets_ticketevent",
        {
            "id": "uuid", "tenant_id": "uuid", "ticket_id": "uuid", "seq": "bigint", "kind": "text",
            "actor_id": "uuid", "actor_kind": "text", "from_value": "text", "to_value": "text", "reason": "text",
            "at": "timestamptz",
        },
        rows,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
