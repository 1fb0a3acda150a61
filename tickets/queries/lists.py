"""Lists of tickets, their counts, and one ticket with what stands beside its thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.db import connection
from django.db.models import F, OuterRef, Q, QuerySet, Subquery, TextField, Value
from django.db.models.functions import Coalesce

from leadengine.errors import NotFound
from leadengine.paging import DEFAULT_LIMIT, Page, read_page
from leads.models import ContactIdentity, Lead, Tag
from tickets.models import Draft, Message, Note, ReadMarker, Ticket, TicketTag
from tickets.models.tickets import ENDED, LIVE
from tickets.policy import Viewer, visible_tickets

MANY = 1000  # counts stop here: it stands for "999+"
EARLIER = 20
_RELATED = ("contact__lead__stage", "queue", "assignee", "close_reason", "closed_by")
# Columns and direction of each sort.
SORTS = {"waiting": ("waiting_key", False), "newest": ("active_at", True), "oldest": ("active_at", False)}
Scope = Literal["mine", "queue", "all"]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tickets a list shows. `scope`: the viewer's own, the unassigned ones, or all that they may see.

    `since` and `until` compare with the time that the ticket was opened; `waiting_before`: waiting at least since then.
    """

    scope: Scope = "all"
    statuses: tuple[str, ...] = tuple(LIVE)
    queue_id: UUID | None = None
    assignee_id: UUID | None = None
    priorities: tuple[str, ...] = ()
    session_id: UUID | None = None
    contact_id: UUID | None = None
    unread: bool | None = None
    waiting_before: datetime | None = None
    since: datetime | None = None
    until: datetime | None = None


# The tabs of the inbox: whose tickets, in which states.
TABS: dict[str, tuple[Scope, tuple[str, ...]]] = {
    "mine": ("mine", ("OPEN", "ASSIGNED")),
    "queue": ("queue", ("OPEN",)),
    "all": ("all", ("OPEN", "ASSIGNED")),
    "snoozed": ("all", ("PENDING",)),
    "ended": ("all", tuple(ENDED)),
}


@dataclass(slots=True)
class TicketRow:
    """A ticket as a list row or header shows it; everything here is already loaded.

    `ticket` has contact, queue, assignee, close_reason and closed_by; `lead` has its stage. `unread`: inbound messages
    that the viewer has not seen. `last`: the message of the preview, with its author. `failed`: a message of ours
    failed or is unconfirmed, and nobody dismissed it. `draft`: what the viewer began to write.
    """

    ticket: Ticket
    unread: int
    draft: str
    lead: Lead | None
    phone: str | None = None
    last: Message | None = None
    failed: bool = False
    tags: list[Tag] = field(default_factory=list)


@dataclass(slots=True)
class TicketPage:
    """One page of a list; `next_cursor` is None on the last."""

    rows: list[TicketRow]
    next_cursor: str | None
    limit: int


@dataclass(slots=True)
class TicketDetail:
    """A ticket and what stands beside its thread. Each list holds at most 20, newest first."""

    row: TicketRow
    identities: list[ContactIdentity]
    earlier: list[Ticket]  # the contact's other tickets that the viewer sees, with queue, assignee, close_reason
    notes: list[Note]  # of this ticket, with author; private ones only for their author and supervisors


def list_page(
    viewer: Viewer,
    tab: str,
    sort: str = "",
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    filters: Filters | None = None,
) -> TicketPage:
    """One page of a tab of the inbox (a key of TABS; others count as `all`). 6 queries.

    `sort` is a key of SORTS; blank or unknown: the longest wait, in ended lists the newest. Raises: InvalidCursor.
    """
    scope, statuses = TABS.get(tab, TABS["all"])
    return find_page(viewer, replace(filters or Filters(), scope=scope, statuses=statuses), sort, cursor, limit)


def find_page(
    viewer: Viewer, filters: Filters, sort: str = "", cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> TicketPage:
    """One page of the tickets that the viewer sees and `filters` describe. 6 queries. Raises: InvalidCursor."""
    ended = set(filters.statuses) <= set(ENDED)
    if sort not in SORTS or (ended and sort == "waiting"):
        sort = "newest" if ended else "waiting"
    column, descending = SORTS[sort]
    page = Page(of=[viewer.user_id, sort, asdict(filters)], limit=limit, cursor=cursor)
    tickets = _with_own_marks(_filtered(viewer, filters), viewer)
    found, next_cursor = read_page(tickets.select_related(*_RELATED), page, (column, "id"), descending=descending)
    return TicketPage(_dress(found), next_cursor, limit)


def tab_counts(viewer: Viewer) -> dict[str, int]:
    """How many tickets each tab holds, and `unread`: the viewer's own live ones with unread messages. 1 query.

    Exact to 999; MANY stands for more, and no count reads further.
    """
    choices = [_filtered(viewer, Filters(scope=scope, statuses=statuses)) for scope, statuses in TABS.values()]
    choices.append(_filtered(viewer, Filters(scope="mine", unread=True)))
    parts: list[str] = []
    parameters: list[Any] = []
    for choice in choices:
        sql, values = choice.order_by().values_list(Value(1))[:MANY].query.sql_with_params()
        parts.append(f"(SELECT count(*) FROM ({sql}) c)")  # noqa: S608 - Django's own SQL, with placeholders
        parameters += values
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(parts), parameters)
        counts = cursor.fetchone()
    return dict(zip([*TABS, "unread"], counts, strict=True))


def find_ticket(viewer: Viewer, ticket_id: UUID) -> Ticket:
    """A ticket that the viewer may see, with its relations. 1 query. Raises: NotFound, for foreign ones alike."""
    ticket = _with_own_marks(visible_tickets(viewer), viewer).select_related(*_RELATED).filter(pk=ticket_id).first()
    if ticket is None:
        raise NotFound("Atendimento não encontrado.")
    return ticket


def ticket_row(viewer: Viewer, ticket_id: UUID) -> TicketRow:
    """One ticket as a row. 5 queries. Raises: NotFound."""
    return _dress([find_ticket(viewer, ticket_id)])[0]


def acted_row(viewer: Viewer, ticket_id: UUID) -> TicketRow:
    """A ticket that the viewer has just acted on: it may have left their sight by that. 5 queries."""
    tickets: QuerySet[Ticket] = Ticket.objects.select_related(*_RELATED)
    return _dress([_with_own_marks(tickets, viewer).get(pk=ticket_id)])[0]


def ticket_detail(viewer: Viewer, ticket_id: UUID) -> TicketDetail:
    """A ticket with its contact's addresses and other tickets, and its notes. 8 queries. Raises: NotFound."""
    row = ticket_row(viewer, ticket_id)
    ticket = row.ticket
    others = visible_tickets(viewer).filter(contact_id=ticket.contact_id).exclude(pk=ticket.pk)
    notes = Note.objects.filter(visible_notes(viewer), ticket=ticket).select_related("author")
    return TicketDetail(
        row,
        list(ContactIdentity.objects.filter(contact_id=ticket.contact_id).order_by("-is_primary", "kind", "value")),
        list(others.select_related("queue", "assignee", "close_reason").order_by("-number")[:EARLIER]),
        list(notes.order_by("-seq")[:EARLIER]),
    )


def visible_notes(viewer: Viewer) -> Q:
    """A private note is for its author and supervisors."""
    return Q() if viewer.is_supervisor else Q(visibility=Note.Visibility.TEAM) | Q(author_id=viewer.user_id)


def _filtered(viewer: Viewer, filters: Filters) -> QuerySet[Ticket]:
    tickets = visible_tickets(viewer).filter(status__in=filters.statuses)
    if filters.scope == "mine":
        tickets = tickets.filter(assignee_id=viewer.user_id)
    elif filters.scope == "queue":
        tickets = tickets.filter(assignee__isnull=True)
    same = {
        "queue_id": filters.queue_id,
        "assignee_id": filters.assignee_id,
        "session_id": filters.session_id,
        "contact_id": filters.contact_id,
        "priority__in": filters.priorities or None,
        "waiting_since__lte": filters.waiting_before,
        "created_at__gte": filters.since,
        "created_at__lt": filters.until,
    }
    tickets = tickets.filter(**{name: value for name, value in same.items() if value is not None})
    if filters.unread is not None:
        comparison = "gt" if filters.unread else "lte"
        tickets = tickets.filter(**{f"inbound_count__{comparison}": _seen_by(viewer)})
    return tickets


def _seen_by(viewer: Viewer) -> Coalesce:
    marker = ReadMarker.objects.filter(user_id=viewer.user_id, ticket=OuterRef("pk"))
    return Coalesce(Subquery(marker.values("inbound_seen")[:1]), 0)


def _with_own_marks(tickets: QuerySet[Ticket], viewer: Viewer) -> QuerySet[Ticket]:
    draft = Draft.objects.filter(user_id=viewer.user_id, ticket=OuterRef("pk"))
    return tickets.annotate(
        unread=F("inbound_count") - _seen_by(viewer),
        draft=Coalesce(Subquery(draft.values("body")[:1]), Value(""), output_field=TextField()),
    )


def _dress(tickets: Sequence[Ticket]) -> list[TicketRow]:
    """Add what is not a column of the ticket or one of its relations: one query for each kind."""
    rows = {ticket.pk: _row(ticket) for ticket in tickets}
    if not rows:
        return []
    phones = dict(
        ContactIdentity.objects.filter(
            contact_id__in={ticket.contact_id for ticket in tickets}, kind=ContactIdentity.Kind.PHONE
        )
        .order_by("is_primary", "id")
        .values_list("contact_id", "value")
    )
    lasts = Message.objects.filter(pk__in=[ticket.last_message_id for ticket in tickets if ticket.last_message_id])
    for message in lasts.select_related("author").defer("payload"):
        rows[message.ticket_id].last = message
    troubled = Message.objects.filter(
        ticket_id__in=rows, status__in=["FAILED", "UNCONFIRMED"], dismissed_at__isnull=True
    )
    for ticket_id in troubled.values_list("ticket_id", flat=True).distinct():
        rows[ticket_id].failed = True
    for link in TicketTag.objects.filter(ticket_id__in=rows).select_related("tag").order_by("tag__name"):
        rows[link.ticket_id].tags.append(link.tag)
    for row in rows.values():
        row.phone = phones.get(row.ticket.contact_id)
    return list(rows.values())


def _row(ticket: Ticket) -> TicketRow:
    lead = getattr(ticket.contact, "lead", None)  # a group has none
    return TicketRow(ticket, max(0, getattr(ticket, "unread", 0)), getattr(ticket, "draft", ""), lead)
