"""Recording what came from outside: inbound messages, and our own that were typed on the phone.

One call per batch of one tenant, a set-based statement per table, everything in the caller's transaction: dedupe by
identity, contacts, tickets (locked in id order), messages with the next positions, media, leads, timeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.db import connection

from leadengine.ids import uuid7
from leadengine.sql import dumps, insert_rows, loads, unnest
from leads.services import ContactRow, LeadTouch, Person, learn_identities, note_answers, touch_leads, upsert_contacts
from tickets.services.announce import announce_arrivals
from tickets.services.effects import change_message
from tickets.services.files import FILE_TYPES, File, enrich_file, insert_files
from tickets.services.opening import Wanted, find_tickets
from tickets.services.shapes import preview_of
from tickets.services.state import TicketState, delta_of, save_tickets
from tickets.services.timeline import recount_stale
from tickets.services.withdrawing import withdraw_for_replies

Key = tuple[UUID, str]  # (session, external id): the identity of a message (D9)
Fate = Literal["stored", "enriched", "duplicate", "queue_missing"]


@dataclass(slots=True)
class Arrival:
    """One message from outside. `metadata` is what goes to Message.metadata; `text` is the text or the caption."""

    session_id: UUID
    external_id: str
    direction: Literal["INBOUND", "OUTBOUND"]
    person: Person
    type: str
    text: str
    sent_at: datetime
    received_at: datetime
    queue_id: UUID | None = None
    file: File | None = None
    sender: dict[str, Any] | None = None
    quoted_id: str | None = None  # external id of the message it answers
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.session_id, self.external_id


@dataclass(slots=True)
class Recorded:
    """What became of an arrival; `message` only where it was stored."""

    fate: Fate
    message_id: UUID | None = None
    ticket_id: UUID | None = None
    contact_id: UUID | None = None
    message: NewMessage | None = None


@dataclass(slots=True)
class NewMessage:
    """A row that was inserted, with what the events need of it."""

    id: UUID
    arrival: Arrival
    contact: ContactRow
    ticket: TicketState
    position: int
    reply_to_id: UUID | None
    metadata: dict[str, Any]
    before: tuple[Any, ...]  # the ticket's timeline without it
    timeline: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    """A row that already has the identity of an arrival."""

    id: UUID
    ticket_id: UUID
    contact_id: UUID
    position: int
    version: int
    type: str
    text: str
    metadata: dict[str, Any]
    reply_to_id: UUID | None
    source: dict[str, Any] | None
    has_thumbnail: bool


def record_arrivals(*, tenant_id: UUID, arrivals: Sequence[Arrival], now: datetime) -> list[Recorded]:
    """Store each arrival once, in order of its place in the list; result i belongs to arrivals[i].

    A second copy of a message fills only what is empty or UNKNOWN in the first (spec/inbound.md section 8).
    """
    firsts: dict[Key, Arrival] = {}
    results: dict[int, Recorded] = {}
    known = _find_known(tenant_id, [arrival.key for arrival in arrivals])
    copies: list[tuple[int, Arrival]] = []
    for index, arrival in enumerate(arrivals):
        if arrival.key in known:
            copies.append((index, arrival))
        elif arrival.key in firsts:
            visible = _fill(firsts[arrival.key], arrival)
            results[index] = Recorded("enriched" if visible else "duplicate")
        else:
            firsts[arrival.key] = arrival
    for index, arrival in copies:
        results[index] = _enrich(tenant_id, known[arrival.key], arrival, now)
    _pair_addresses(tenant_id, copies, known, now)
    stored = _store(tenant_id, list(firsts.values()), now)
    for index, arrival in enumerate(arrivals):
        row = stored.get(arrival.key)
        if index not in results:
            results[index] = row or Recorded("queue_missing")
        elif row and results[index].message_id is None:
            results[index].message_id, results[index].ticket_id = row.message_id, row.ticket_id
        elif arrival.key in firsts and row is None:
            results[index] = Recorded("queue_missing")
    return [results[index] for index in range(len(arrivals))]


def _store(tenant_id: UUID, arrivals: list[Arrival], now: datetime) -> dict[Key, Recorded]:
    if not arrivals:
        return {}
    contacts = upsert_contacts(tenant_id=tenant_id, people=[arrival.person for arrival in arrivals], now=now)
    wanted = [
        Wanted((contact.id, arrival.session_id), arrival.sent_at, arrival.direction == "INBOUND", arrival.queue_id)
        for arrival, contact in zip(arrivals, contacts, strict=True)
    ]
    tickets = find_tickets(tenant_id=tenant_id, wanted=wanted, now=now)
    quotes = _find_quoted(tenant_id, arrivals)
    rows: list[NewMessage] = []
    made: dict[Key, UUID] = {}
    for arrival, contact, ticket in zip(arrivals, contacts, tickets, strict=True):
        if ticket is None:
            continue
        row = _append(arrival, contact, ticket, now)
        made[arrival.key] = row.id
        rows.append(row)
    for row in rows:  # an answer may come before what it quotes
        quoted = (row.arrival.session_id, row.arrival.quoted_id or "")
        row.reply_to_id = made.get(quoted) or quotes.get(quoted)
    _insert(tenant_id, rows, now)
    states = list({row.ticket.id: row.ticket for row in rows}.values())
    recount_stale(tenant_id=tenant_id, states=states)
    save_tickets(tenant_id=tenant_id, states=states)
    _note_deltas(rows)
    leads = touch_leads(
        tenant_id=tenant_id,
        touches=[
            LeadTouch(row.contact.id, row.id, preview_of(row.arrival.type, row.arrival.text)[:140], row.arrival.sent_at)
            for row in rows
            if row.arrival.direction == "INBOUND" and row.contact.kind == "PERSON"
        ],
        now=now,
    )
    wrote = {row.contact.id for row in rows if row.arrival.direction == "INBOUND"}
    withdraw_for_replies(tenant_id=tenant_id, contact_ids=wrote, now=now)
    ours = [(row.contact.id, row.arrival.sent_at) for row in rows if row.arrival.direction == "OUTBOUND"]
    note_answers(tenant_id=tenant_id, answers=ours)
    announce_arrivals(tenant_id=tenant_id, rows=rows, leads=leads, now=now)
    return {row.arrival.key: Recorded("stored", row.id, row.ticket.id, row.contact.id, row) for row in rows}


def _append(arrival: Arrival, contact: ContactRow, ticket: TicketState, now: datetime) -> NewMessage:
    """Take the ticket's next position and move its counters and timeline, in memory."""
    metadata = dict(arrival.metadata)
    message_id = uuid7()
    before = ticket.snapshot()
    ticket.last_position += 1
    if ticket.last_message_at is not None and arrival.sent_at < ticket.last_message_at:
        metadata["lateBySeconds"] = int((ticket.last_message_at - arrival.sent_at).total_seconds())
    ticket.count_message(
        message_id=message_id,
        inbound=arrival.direction == "INBOUND",
        sent=arrival.sent_at,
        preview=preview_of(arrival.type, arrival.text),
    )
    if arrival.direction == "INBOUND" and ticket.status == "PENDING":
        ticket.note_entry("WOKEN", at=now)
        ticket.status = "ASSIGNED" if ticket.assignee_id else "OPEN"
        ticket.pending_reason = ticket.snoozed_until = None
    return NewMessage(message_id, arrival, contact, ticket, ticket.last_position, None, metadata, before)


def _note_deltas(rows: Sequence[NewMessage]) -> None:
    """What each message changed in its ticket's timeline; applied in order they lead to what was saved."""
    after = {row.ticket.id: row.ticket.snapshot() for row in rows}
    for row in reversed(rows):
        row.timeline = delta_of(row.before, after[row.ticket.id])
        after[row.ticket.id] = row.before


def _insert(tenant_id: UUID, rows: list[NewMessage], now: datetime) -> None:
    if not rows:
        return
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "tickets_message",
            {
                "id": "uuid", "tenant_id": "uuid", "ticket_id": "uuid", "contact_id": "uuid", "session_id": "uuid",
                "position": "bigint", "direction": "text", "type": "text", "content": "text", "caption": "text",
                "status": "text", "source": "text", "sender": "jsonb", "reply_to_id": "uuid", "external_id": "text",
                "metadata": "jsonb", "sent_at": "timestamptz", "received_at": "timestamptz",
                "processed_at": "timestamptz",
            },
            [
                (
                    row.id, tenant_id, row.ticket.id, row.contact.id, row.arrival.session_id, row.position,
                    row.arrival.direction, row.arrival.type, "" if row.arrival.file else row.arrival.text,
                    row.arrival.text if row.arrival.file else "",
                    "RECEIVED" if row.arrival.direction == "INBOUND" else "SENT",
                    "CUSTOMER" if row.arrival.direction == "INBOUND" else "PHONE",
                    dumps(row.arrival.sender), row.reply_to_id, row.arrival.external_id, dumps(row.metadata),
                    row.arrival.sent_at, row.arrival.received_at, now,
                )
                for row in rows
            ],
        )  # fmt: skip
    files = [(row.id, row.arrival.file) for row in rows if row.arrival.file]
    insert_files(tenant_id=tenant_id, files=files, now=now)


# --- Second copies ------------------------------------------------------------------------------------------------


def _find_known(tenant_id: UUID, keys: Sequence[Key]) -> dict[Key, _Known]:
    if not keys:
        return {}
    source, arrays = unnest({"session_id": "uuid", "external_id": "text"}, list(dict.fromkeys(keys)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT m.session_id, m.external_id, m.id, m.ticket_id, m.contact_id, m.position, m.version, m.type,
                    m.content || m.caption, m.metadata, m.reply_to_id, f.source, f.thumbnail IS NOT NULL
                FROM {source} AS w (session_id, external_id)
                JOIN tickets_message m ON m.session_id = w.session_id AND m.external_id = w.external_id
                LEFT JOIN tickets_messagemedia f ON f.message_id = m.id
                WHERE m.tenant_id = %s""",  # noqa: S608
            [*arrays, tenant_id],
        )
        rows = [list(row) for row in cursor.fetchall()]
    for row in rows:
        row[9], row[11] = loads(row[9]), loads(row[11])
    return {(row[0], row[1]): _Known(*row[2:]) for row in rows}


def _fill(first: Arrival, copy: Arrival) -> bool:
    """Let a copy in the same batch fill what the first lacks; says whether something visible was filled."""
    visible = False
    if first.type == "UNKNOWN" and copy.type != "UNKNOWN":
        first.type, visible = copy.type, True
    if not first.text and copy.text:
        first.text, visible = copy.text, True
    if copy.quoted_id and not first.quoted_id:
        first.quoted_id, visible = copy.quoted_id, True
    if copy.file:
        if first.file is None and first.type in FILE_TYPES:
            first.file, visible = copy.file, True
        elif first.file is not None:
            visible |= first.file.thumbnail is None and copy.file.thumbnail is not None
            first.file.thumbnail = first.file.thumbnail or copy.file.thumbnail
            first.file.source = max(first.file.source, copy.file.source, key=len)
    for name in _SHOWN_METADATA:
        if copy.metadata.get(name) and not first.metadata.get(name):
            first.metadata[name] = copy.metadata[name]
            visible = True
    if _tells_choice(first.metadata, copy.metadata):
        first.metadata["vote"] = copy.metadata["vote"]
        visible = True
    if first.sender is None and copy.sender is not None:
        first.sender = copy.sender
    first.person.identities = tuple(dict.fromkeys((*first.person.identities, *copy.person.identities)))
    first.person.name = first.person.name or copy.person.name
    first.person.push_name = first.person.push_name or copy.person.push_name
    return visible


_SHOWN_METADATA = ("location", "contacts", "interactive", "quoted", "poll")


def _tells_choice(known: dict[str, Any], copy: dict[str, Any]) -> bool:
    """Whether a copy of a vote says what was chosen, where the first one did not: raw votes are encrypted."""
    first, second = known.get("vote"), copy.get("vote")
    told = second is not None and second.get("options") is not None
    return told and (first is None or first.get("options") is None)


def _enrich(tenant_id: UUID, known: _Known, copy: Arrival, now: datetime) -> Recorded:
    """Let a later copy fill what the stored row lacks."""
    changes: dict[str, Any] = {}
    if known.type == "UNKNOWN" and copy.type != "UNKNOWN":
        changes["type"] = known.type = copy.type
    if not known.text and copy.text:
        changes["caption" if copy.file else "content"] = known.text = copy.text
    shown = {
        name: copy.metadata[name]
        for name in _SHOWN_METADATA
        if copy.metadata.get(name) and not known.metadata.get(name)
    }
    if _tells_choice(known.metadata, copy.metadata):
        shown["vote"] = copy.metadata["vote"]
    if shown:
        changes["metadata"] = known.metadata = {**known.metadata, **shown}
    if copy.quoted_id and known.reply_to_id is None:
        target = _find_quoted(tenant_id, [copy]).get((copy.session_id, copy.quoted_id))
        if target:
            changes["reply_to_id"] = known.reply_to_id = target
    filled_file = _enrich_file(tenant_id, known, copy.file, now) if copy.file else False
    if changes or filled_file:
        known.version = change_message(
            tenant_id=tenant_id, message_id=known.id, changes=changes, media_changed=filled_file
        )
        return Recorded("enriched", known.id, known.ticket_id, known.contact_id)
    return Recorded("duplicate", known.id, known.ticket_id, known.contact_id)


def _enrich_file(tenant_id: UUID, known: _Known, file: File, now: datetime) -> bool:
    """Give the media row its keys and picture; says whether something a person sees was filled."""
    if known.source is None:
        if known.type not in FILE_TYPES:
            return False
        insert_files(tenant_id=tenant_id, files=[(known.id, file)], now=now)
        known.source, known.has_thumbnail = file.source, file.thumbnail is not None
        return True
    fuller = len(file.source) > len(known.source)
    if not fuller and (known.has_thumbnail or not file.thumbnail):
        return False
    revived = enrich_file(tenant_id=tenant_id, message_id=known.id, file=file, fuller=fuller, now=now)
    filled = not known.has_thumbnail and file.thumbnail is not None
    known.source = file.source if fuller else known.source
    known.has_thumbnail = known.has_thumbnail or filled
    return filled or revived


def _pair_addresses(
    tenant_id: UUID, copies: Sequence[tuple[int, Arrival]], known: dict[Key, _Known], now: datetime
) -> None:
    """A twin may bring an address its first copy lacked (a LID beside the phone): the contact learns it."""
    learned = [
        (known[arrival.key].contact_id, arrival.person.identities)
        for _, arrival in copies
        if arrival.direction == "INBOUND"
    ]
    learn_identities(tenant_id=tenant_id, learned=learned, now=now)


def _find_quoted(tenant_id: UUID, arrivals: Sequence[Arrival]) -> dict[Key, UUID]:
    keys = list({(arrival.session_id, arrival.quoted_id) for arrival in arrivals if arrival.quoted_id})
    if not keys:
        return {}
    source, arrays = unnest({"session_id": "uuid", "external_id": "text"}, keys)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT m.session_id, m.external_id, m.id FROM {source} AS w (session_id, external_id)
                JOIN tickets_message m ON m.session_id = w.session_id AND m.external_id = w.external_id
                WHERE m.tenant_id = %s""",  # noqa: S608
            [*arrays, tenant_id],
        )
        return {(row[0], row[1]): row[2] for row in cursor.fetchall()}
