"""Conversations: the contact's whole history for the screen, one ticket's messages, and what is new since a cursor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.db.models import BooleanField, ExpressionWrapper, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from leadengine.errors import NotFound
from leadengine.paging import DEFAULT_LIMIT, beyond
from tickets.models import Message, MessageMedia, MessageReaction, Note, ReadMarker, Ticket, TicketEvent
from tickets.policy import Viewer
from tickets.queries.lists import find_ticket, visible_notes

MOST_ENTRIES = 500
MOST_STATES = 300  # what a thread keeps on screen
_ORDER = ("sent_at", "position", "id")


class _Place(NamedTuple):
    """Where a message stands in its contact's history."""

    sent_at: datetime
    position: int
    id: UUID
    ticket_id: UUID


@dataclass(slots=True)
class ThreadMessage:
    """A message with its author loaded, its file, reactions, and the message it answers when the viewer may see it."""

    message: Message
    media: MessageMedia | None
    has_thumbnail: bool
    reactions: list[MessageReaction] = field(default_factory=list)
    quoted: Message | None = None  # with its author


@dataclass(slots=True)
class ThreadItem:
    """One thing in a thread. `ticket`: a separator before that ticket's first item; else what the kind says.

    `entry` is a Note or TicketEvent, with author or actor loaded.
    """

    kind: Literal["ticket", "message", "note", "event"]
    at: datetime
    ticket: Ticket
    message: ThreadMessage | None = None
    entry: Note | TicketEvent | None = None


@dataclass(slots=True)
class ThreadPage:
    """A part of a contact's history, oldest first.

    `older` and `newer` are the message ids to ask with (`before`, `after`) for the next part, None at the ends.
    `cursor` `P.E` is where `thread_delta` goes on for `ticket`; `read_position`: how far the viewer has read it.
    """

    ticket: Ticket
    items: list[ThreadItem]
    older: UUID | None
    newer: UUID | None
    cursor: str
    read_position: int


@dataclass(slots=True)
class ThreadDelta:
    """What came to one ticket after a cursor, in order; ask again at once while `more`.

    `states` are messages on screen as they are now, all that are still shown of the positions `covered`.
    """

    ticket: Ticket
    items: list[ThreadItem]
    states: list[ThreadMessage]
    covered: tuple[int, int] | None
    cursor: str
    more: bool


@dataclass(slots=True)
class MessagePage:
    """Messages of one ticket by (sent_at, position), as people see them; where to go on from, None at the ends."""

    messages: list[ThreadMessage]
    before: int | None
    after: int | None


def thread_page(
    viewer: Viewer,
    ticket_id: UUID,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    around: UUID | None = None,
    limit: int = DEFAULT_LIMIT,
) -> ThreadPage:
    """The history of a ticket's contact in all tickets that the viewer sees: its newest part, or the part at a message.

    Notes and events stand where their time puts them, at most 500 a page. At most 8 queries. Raises: NotFound (also
    when the message is not of this history).
    """
    ticket, tickets, history = _history_of(viewer, ticket_id)
    anchor = _anchor(history, before or after or around)
    found, older, newer = _slice(history, anchor, "before" if before else "after" if after else "around", limit)
    items = [
        ThreadItem("message", one.message.sent_at, tickets[one.message.ticket_id], message=one)
        for one in _load([place.id for place in found], tickets)
    ]
    if found or anchor is None:
        # Each entry belongs to one part: the one whose first message is the last before it.
        low = found[0].sent_at if older else None
        high = newer.sent_at if newer else None
        items += _entries(viewer, _between("at", low, high), _between("created_at", low, high), tickets)
    return ThreadPage(
        ticket,
        _separated(sorted(items, key=_place), older.ticket_id if older else None),
        found[0].id if found and older else None,
        found[-1].id if found and newer else None,
        f"{ticket.last_position}.{ticket.last_event_seq}",
        getattr(ticket, "read_position", 0),
    )


def thread_delta(
    viewer: Viewer,
    ticket_id: UUID,
    *,
    position: int,
    seq: int,
    states: tuple[int, int] | None = None,
    limit: int = DEFAULT_LIMIT,
) -> ThreadDelta:
    """Messages after `position`, notes and events after `seq`, and messages of the positions `states` as they are now.

    Positions and seqs have no gaps, so a page is a range of each and a cursor never loses a row, whatever commits
    meanwhile. At most 7 queries. Raises: NotFound.
    """
    ticket = find_ticket(viewer, ticket_id)
    to_position = max(position, min(ticket.last_position, position + limit))
    to_seq = max(seq, min(ticket.last_event_seq, seq + limit))
    wanted = Q(position__gt=position, position__lte=to_position)
    if states:
        states = (states[0], min(states[1], states[0] + MOST_STATES))
        wanted |= Q(position__gte=states[0], position__lte=states[1])
    dressed = _load(_ids(ticket, wanted), {ticket.pk})
    items = [
        ThreadItem("message", one.message.sent_at, ticket, message=one)
        for one in dressed
        if position < one.message.position <= to_position
    ]
    items += list_entries(viewer, ticket, seq, to_seq)
    return ThreadDelta(
        ticket,
        sorted(items, key=_place),
        [one for one in dressed if states and states[0] <= one.message.position <= states[1]],
        states,
        f"{to_position}.{to_seq}",
        to_position < ticket.last_position or to_seq < ticket.last_event_seq,
    )


def message_page(
    viewer: Viewer,
    ticket_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    around: UUID | None = None,
    limit: int = DEFAULT_LIMIT,
) -> MessagePage:
    """Messages of one ticket: the newest, or those before or after a position, or around a message. At most 6 queries.

    Raises: NotFound.
    """
    ticket = find_ticket(viewer, ticket_id)
    last = ticket.last_position
    if around is not None:
        place = Message.objects.filter(ticket_id=ticket.pk, pk=around).values_list("position", flat=True).first()
        if place is None:
            raise NotFound("Mensagem não encontrada.")
        low = max(0, place - 1 - limit // 2)
    else:
        low = after if after is not None else max(0, (last + 1 if before is None else before) - 1 - limit)
    high = min(last, low + limit, before - 1 if before is not None else last)
    messages = _load(_ids(ticket, Q(position__gt=low, position__lte=high)), {ticket.pk})
    return MessagePage(messages, low + 1 if low > 0 and messages else None, high if high < last and messages else None)


def list_entries(viewer: Viewer, ticket: Ticket, after: int, upto: int) -> list[ThreadItem]:
    """A ticket's notes and events with `after` < seq <= `upto`, by time. 2 queries, none for an empty range."""
    if upto <= after:
        return []
    span = Q(seq__gt=after, seq__lte=upto)
    return _entries(viewer, span, span, {ticket.pk: ticket})


# --- Messages ----------------------------------------------------------------------------------------------------


def _ids(ticket: Ticket, wanted: Q) -> list[UUID]:
    messages = Message.objects.for_tenant(ticket.tenant_id).filter(wanted, ticket_id=ticket.pk)
    return list(messages.values_list("pk", flat=True))


def _load(ids: Sequence[UUID], visible: Collection[UUID]) -> list[ThreadMessage]:
    """Messages by (sent_at, position), without what no thread shows (a thumbnail may be 64 KB): at most 3 queries.

    By id, because the planner, which takes row level security for a sieve, guesses every other condition wrong.
    """
    has_thumbnail = ExpressionWrapper(Q(media__thumbnail__isnull=False), output_field=BooleanField())
    # An echo row that became one with ours keeps its position, and nobody is shown it.
    shown = Message.objects.filter(pk__in=ids).exclude(metadata__has_key="mergedInto")
    messages = shown.select_related("author", "media").order_by(*_ORDER)
    rows = {
        one.pk: ThreadMessage(one, getattr(one, "media", None), one.has_thumbnail)
        for one in messages.defer("payload", "media__thumbnail", "media__source").annotate(has_thumbnail=has_thumbnail)
    }
    if rows:
        # A reaction that was taken back stays as a row without emoji.
        for reaction in MessageReaction.objects.filter(message_id__in=rows).exclude(emoji="").order_by("at"):
            rows[reaction.message_id].reactions.append(reaction)
    wanted = {row.message.reply_to_id for row in rows.values() if row.message.reply_to_id}
    if wanted:
        quoted = Message.objects.select_related("author").filter(pk__in=wanted, ticket_id__in=visible).in_bulk()
        for row in rows.values():
            row.quoted = quoted.get(row.message.reply_to_id)
    return list(rows.values())


# --- The contact's history ---------------------------------------------------------------------------------------


def _history_of(viewer: Viewer, ticket_id: UUID) -> tuple[Ticket, dict[UUID, Ticket], QuerySet[Message]]:
    """The ticket, all tickets of its contact that the viewer sees, and their messages. 1 query. Raises: NotFound."""
    tickets: QuerySet[Ticket] = Ticket.objects.all()
    if viewer.tenant_id is not None:
        tickets = Ticket.objects.for_tenant(viewer.tenant_id)
    contact = tickets.filter(pk=ticket_id).values("contact_id")
    marker = ReadMarker.objects.filter(user_id=viewer.user_id, ticket=OuterRef("pk")).values("last_position")
    of_contact: list[Ticket] = list(
        tickets.filter(contact_id=Subquery(contact))
        .select_related("queue", "assignee", "close_reason", "closed_by", "contact")
        .annotate(read_position=Coalesce(Subquery(marker[:1]), 0))
    )
    seen = {one.pk: one for one in of_contact if viewer.sees(one.queue_id, one.assignee_id)}
    if ticket_id not in seen:
        raise NotFound("Atendimento não encontrado.")
    ticket = seen[ticket_id]
    messages: QuerySet[Message] = Message.objects.for_tenant(ticket.tenant_id).filter(contact_id=ticket.contact_id)
    # Only where something is hidden: the planner would take the tickets for a sieve and sort the whole history.
    return ticket, seen, messages if len(seen) == len(of_contact) else messages.filter(ticket_id__in=seen)


def _anchor(history: QuerySet[Message], message_id: UUID | None) -> _Place | None:
    if message_id is None:
        return None
    row = history.filter(pk=message_id).values_list(*_Place._fields).first()
    if row is None:
        raise NotFound("Mensagem não encontrada.")
    return _Place(*row)


def _slice(
    history: QuerySet[Message], anchor: _Place | None, side: str, limit: int
) -> tuple[list[_Place], _Place | None, _Place | None]:
    """(places oldest first, the one before them, the one after them). 1 query."""
    if anchor is None:
        newest_first = [_Place(*row) for row in _walk(history, None, "<", limit)]
        return newest_first[:limit][::-1], _at(newest_first, limit), None
    back, forth = {"before": (limit, 0), "after": (0, limit), "around": (limit // 2, limit - limit // 2 - 1)}[side]
    down, up = _walk(history, anchor, "<", back), _walk(history, anchor, ">", forth)
    rows = down if side == "before" else up if side == "after" else down.union(up, all=True)
    places = sorted(_Place(*row) for row in rows)
    older = [place for place in places if place < anchor][::-1]
    newer = [place for place in places if place > anchor]
    middle = [anchor] if side == "around" else []
    first = anchor if side == "after" else _at(older, back)
    last = anchor if side == "before" else _at(newer, forth)
    return [*older[:back][::-1], *middle, *newer[:forth]], first, last


def _walk(history: QuerySet[Message], anchor: _Place | None, operator: str, count: int) -> QuerySet[Message, Any]:
    """The next `count` places from the anchor (None: the end) and one more, nearest first."""
    if anchor is not None:
        history = history.filter(beyond(_ORDER, anchor[:3], operator))
    order = [f"-{name}" for name in _ORDER] if operator == "<" else list(_ORDER)
    return history.order_by(*order).values_list(*_Place._fields)[: count + 1]


def _at(places: Sequence[_Place], index: int) -> _Place | None:
    return places[index] if len(places) > index else None


def _entries(viewer: Viewer, events: Q, notes: Q, tickets: dict[UUID, Ticket]) -> list[ThreadItem]:
    """Events and notes of these tickets, the newest 500 of each: two queries."""
    happened = TicketEvent.objects.filter(events, ticket_id__in=tickets).select_related("actor")
    said = Note.objects.filter(notes, visible_notes(viewer), ticket_id__in=tickets).select_related("author")
    items = [
        ThreadItem("event", event.at, tickets[event.ticket_id], entry=event)
        for event in happened.order_by("-at", "-seq")[:MOST_ENTRIES]
    ]
    items += [
        ThreadItem("note", note.created_at, tickets[note.ticket_id], entry=note)
        for note in said.order_by("-created_at", "-seq")[:MOST_ENTRIES]
    ]
    return sorted(items, key=_place)


def _between(column: str, low: datetime | None, high: datetime | None) -> Q:
    span = Q()
    if low is not None:
        span &= Q(**{f"{column}__gte": low})
    if high is not None:
        span &= Q(**{f"{column}__lt": high})
    return span


def _separated(items: Sequence[ThreadItem], ticket_before: UUID | None) -> list[ThreadItem]:
    """The items with a separator wherever another ticket begins."""
    shown: list[ThreadItem] = []
    for item in items:
        if item.ticket.pk != ticket_before:
            shown.append(ThreadItem("ticket", item.at, item.ticket))
            ticket_before = item.ticket.pk
        shown.append(item)
    return shown


def _place(item: ThreadItem) -> tuple[datetime, bool, int]:
    """What people see is sorted by time; at one instant messages come first, each kind in its own order."""
    if item.message is not None:
        return item.at, False, item.message.message.position
    return item.at, True, item.entry.seq if item.entry else 0
