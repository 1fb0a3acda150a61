"""REST of tickets: lists, one ticket, and what people do with it (spec/tickets-leads.md section 8)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID

from django.db.models import prefetch_related_objects
from django.utils import timezone
from pydantic import AwareDatetime, Field, JsonValue
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, answer, describe
from leadengine.accounts.api.base import BIGGEST
from leadengine.accounts.api.schema import Shape
from leadengine.errors import ValidationFailed
from tickets.api.base import TicketAPIView
from tickets.models.tickets import ENDED, LIVE
from tickets.queries import MANY, Filters, TicketRow, acted_row, find_page, tab_counts, ticket_row
from tickets.serializers import TicketShape, ticket_json
from tickets.services import lifecycle
from tickets.services.lifecycle import VersionConflict

Status = Literal["OPEN", "ASSIGNED", "PENDING", "RESOLVED", "CLOSED"]
Priority = Literal["LOW", "NORMAL", "HIGH", "URGENT"]
Include = Literal["contact", "lead"]
Count = int | Literal["999+"]
Version = Field(None, ge=0, le=BIGGEST)


class TicketQuery(Query):
    """Open and ended tickets at once need `contactId`. `from` and `to`: opened then. `waitingOver`: minutes."""

    status: tuple[Status, ...] = ()
    state: Literal["open", "ended"] | None = None
    queue_id: UUID | None = None
    assignee_id: UUID | None = None
    scope: Literal["mine", "queue", "all"] = "all"
    priority: tuple[Priority, ...] = ()
    session_id: UUID | None = None
    contact_id: UUID | None = None
    unread: bool | None = None
    waiting_over: int | None = Field(None, ge=0, le=1_000_000)
    from_: AwareDatetime | None = Field(None, alias="from")
    to: AwareDatetime | None = None
    sort: Literal["waiting", "newest", "oldest"] | None = None
    include: tuple[Include, ...] = ()


class OneQuery(Body):
    include: tuple[Include, ...] = ()


class CountsShape(Shape):
    mine: Count
    queue: Count
    all: Count
    snoozed: Count
    ended: Count
    unread: Count


class VersionBody(Body):
    version: int | None = Version


class TicketBody(VersionBody):
    """`metadata` is changed by key; null removes one."""

    subject: str | None = Field(None, max_length=200)
    priority: Priority | None = None
    metadata: dict[str, JsonValue] | None = None


class AssignBody(VersionBody):
    """`expectedAssigneeId`: only if that is who has it; null: only if nobody has."""

    user_id: UUID
    expected_assignee_id: UUID | None = None


class CloseBody(VersionBody):
    reason_code: str = Field("", max_length=40)
    note: str = Field("", max_length=4000)


class ReadBody(Body):
    position: int = Field(ge=0, le=BIGGEST)


class TicketListView(TicketAPIView):
    permissions: ClassVar = {"GET": "tickets:read"}

    @describe(TicketShape, many=True, query=TicketQuery)
    def get(self, request: Request) -> Response:
        """Tickets that the caller sees: the open ones by the longest wait, the ended ones by the newest."""
        query = self.read_query(TicketQuery)
        waiting = query.waiting_over
        filters = Filters(
            scope=query.scope,
            statuses=_statuses(query),
            queue_id=query.queue_id,
            assignee_id=query.assignee_id,
            priorities=query.priority,
            session_id=query.session_id,
            contact_id=query.contact_id,
            unread=query.unread,
            # To the minute, so that the next page, asked for seconds later, is one of the same list.
            waiting_before=None
            if waiting is None
            else timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=waiting),
            since=query.from_,
            until=query.to,
        )
        page = find_page(self.viewer, filters, query.sort or "", query.cursor, query.limit)
        return answer(_all_json(page.rows, query.include), meta={"nextCursor": page.next_cursor, "limit": page.limit})


class TicketCountsView(TicketAPIView):
    permissions: ClassVar = {"GET": "tickets:read"}

    @describe(CountsShape)
    def get(self, request: Request) -> Response:
        """How many tickets each tab holds: exact to 999, then `999+`."""
        self.read_query(Body)
        return answer({tab: "999+" if count >= MANY else count for tab, count in tab_counts(self.viewer).items()})


class ActionView(TicketAPIView):
    """What is done to one ticket; what each action does stands at its service."""

    permissions: ClassVar = {"POST": "tickets:write"}

    def act(self, ticket_id: UUID, service: Callable[..., Any], **arguments: Any) -> Response:
        """Call a service and answer the ticket as it is then; a stale version is told the present one."""
        try:
            service(actor=self.user, ticket_id=ticket_id, now=timezone.now(), **arguments)
        except VersionConflict as error:
            error.details["ticket"] = ticket_json(acted_row(self.viewer, ticket_id))
            raise
        return answer(ticket_json(acted_row(self.viewer, ticket_id)))


class TicketView(ActionView):
    permissions: ClassVar = {"GET": "tickets:read", "PATCH": "tickets:write"}

    @describe(TicketShape, query=OneQuery)
    def get(self, request: Request, ticket_id: UUID) -> Response:
        """One ticket."""
        query = self.read_query(OneQuery)
        return answer(_all_json([ticket_row(self.viewer, ticket_id)], query.include)[0])

    @describe(TicketShape, body=TicketBody)
    def patch(self, request: Request, ticket_id: UUID) -> Response:
        """Change what is named; `metadata` by key."""
        body = self.read_body(TicketBody)
        return self.act(
            ticket_id, lifecycle.edit_ticket, subject=body.subject, priority=body.priority, metadata=body.metadata,
            version=body.version,
        )  # fmt: skip


class AssignView(ActionView):
    @describe(TicketShape, body=AssignBody)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """Assign to a person; to oneself: take."""
        body = self.read_body(AssignBody)
        named = "expected_assignee_id" in body.model_fields_set
        return self.act(
            ticket_id, lifecycle.assign_ticket, user_id=body.user_id, version=body.version,
            expected_assignee_id=body.expected_assignee_id if named else ...,
        )  # fmt: skip


class UnassignView(ActionView):
    @describe(TicketShape, body=VersionBody)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """Put it back into its queue."""
        return self.act(ticket_id, lifecycle.unassign_ticket, version=self.read_body(VersionBody).version)


class CloseView(ActionView):
    @describe(TicketShape, body=CloseBody)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """End it with a reason."""
        body = self.read_body(CloseBody)
        return self.act(
            ticket_id, lifecycle.close_ticket, reason_code=body.reason_code, note=body.note, version=body.version
        )


class ReopenView(ActionView):
    @describe(TicketShape, body=VersionBody)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """Reopen it under its number."""
        return self.act(ticket_id, lifecycle.reopen_ticket, version=self.read_body(VersionBody).version)


class ReadView(ActionView):
    @describe(TicketShape, body=ReadBody)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """Say how far the caller has read."""
        return self.act(ticket_id, lifecycle.mark_read, position=self.read_body(ReadBody).position)


class UnreadView(ActionView):
    @describe(TicketShape)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """Mark the last message from the contact as unread by the caller."""
        self.read_body(Body)
        return self.act(ticket_id, lifecycle.mark_unread)


def _statuses(query: TicketQuery) -> tuple[str, ...]:
    """The states asked for. One index serves the open tickets, another the ended ones; both only of one contact."""
    states = {"open": LIVE, "ended": ENDED, None: LIVE + ENDED if query.contact_id or query.status else LIVE}[
        query.state
    ]
    chosen = tuple(status for status in states if not query.status or status in query.status)
    if not chosen or (query.contact_id is None and not (set(chosen) <= set(LIVE) or set(chosen) <= set(ENDED))):
        raise ValidationFailed(
            [{"field": "status", "message": "Peça estados abertos ou encerrados; os dois, só com contactId."}]
        )
    return chosen


def _all_json(rows: list[TicketRow], include: tuple[str, ...]) -> list[dict[str, Any]]:
    if "contact" in include:
        prefetch_related_objects([row.ticket.contact for row in rows], "identities", "tags")
    return [ticket_json(row, include) for row in rows]
