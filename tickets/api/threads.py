"""REST of conversations: messages, what is new, notes, history, drafts (spec/tickets-leads.md section 8)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal
from uuid import UUID

from django.utils import timezone
from pydantic import Field
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, answer, describe
from leadengine.accounts.api.base import BIGGEST
from leadengine.accounts.api.schema import ListMeta
from leadengine.errors import ValidationFailed
from leadengine.paging import Page
from tickets.api.base import TicketAPIView
from tickets.api.messages import TicketDoor
from tickets.models import Draft, Note, TicketEvent
from tickets.queries import MOST_STATES, find_ticket, message_page, thread_delta, thread_page, visible_notes
from tickets.serializers import (
    DraftShape,
    EventShape,
    NoteShape,
    ThreadItemShape,
    ThreadMeta,
    ThreadShape,
    draft_json,
    event_json,
    note_json,
    thread_item_json,
    thread_message_json,
)
from tickets.services import lifecycle
from tickets.services.lifecycle.desk import LONGEST_DRAFT, LONGEST_NOTE


class MessageQuery(Query):
    """Of one ticket: `before`, `after` a position, or `around` a message; with `scope=contact` `around`, `cursor`."""

    before: int | None = Field(None, ge=0, le=BIGGEST)
    after: int | None = Field(None, ge=0, le=BIGGEST)
    around: UUID | None = None
    scope: Literal["ticket", "contact"] = "ticket"


class MessageMeta(ListMeta):
    """`before` and `after`: positions to go on from. `nextCursor`, `previousCursor`: older and newer history."""

    previous_cursor: str | None
    before: int | None
    after: int | None


class ThreadQuery(Body):
    """`after`: position.seq of the last answer's cursor. `states`: positions from..to of messages on screen."""

    after: str = Field("0.0", pattern=r"^\d{1,18}\.\d{1,18}$")
    states: str | None = Field(None, pattern=r"^\d{1,18}\.\.\d{1,18}$")
    limit: int = Field(50, ge=1, le=100)


class NoteBody(Body):
    body: str = Field(min_length=1, max_length=LONGEST_NOTE)
    visibility: Literal["TEAM", "PRIVATE"] = "TEAM"


class DraftBody(Body):
    kind: Literal["REPLY", "NOTE"] = "REPLY"
    body: str = Field("", max_length=LONGEST_DRAFT)
    reply_to_id: UUID | None = None
    upload_ids: list[UUID] = Field(default=[], max_length=10)


class TicketMessagesView(TicketDoor):
    """GET is the conversation, POST the door that sends into it."""

    permissions: ClassVar = {"GET": "tickets:read", "POST": "messages:send"}

    @describe(ThreadItemShape, many=True, meta=MessageMeta, query=MessageQuery)
    def get(self, request: Request, ticket_id: UUID) -> Response:
        """Messages as people see them, oldest first; with `scope=contact` all that happened, ticket by ticket."""
        query = self.read_query(MessageQuery)
        asked = [value for value in (query.before, query.after, query.around, query.cursor) if value is not None]
        positions = query.before is not None or query.after is not None
        if len(asked) > 1 or (query.scope == "contact" and positions) or (query.scope == "ticket" and query.cursor):
            raise ValidationFailed([{"field": "before", "message": "Só um lugar por vez, do mesmo escopo."}])
        if query.scope == "contact":
            return self._history(ticket_id, query)
        page = message_page(
            self.viewer, ticket_id, before=query.before, after=query.after, around=query.around, limit=query.limit
        )
        data = [
            {"kind": "message", "at": shown["sentAt"], "message": shown}
            for shown in (thread_message_json(row, self.viewer) for row in page.messages)
        ]
        return answer(data, meta=_meta(query, before=page.before, after=page.after))

    def _history(self, ticket_id: UUID, query: MessageQuery) -> Response:
        part = Page(["history", ticket_id], query.limit, query.cursor)
        side, message_id = part.after() or ("around", query.around)
        page = thread_page(self.viewer, ticket_id, **{str(side): message_id}, limit=query.limit)
        data = [thread_item_json(item, self.viewer) for item in page.items]
        older = part.cursor_after(["before", page.older]) if page.older else None
        newer = part.cursor_after(["after", page.newer]) if page.newer else None
        return answer(data, meta=_meta(query, older=older, newer=newer))


class ThreadView(TicketAPIView):
    permissions: ClassVar = {"GET": "tickets:read"}

    @describe(ThreadShape, query=ThreadQuery, meta=ThreadMeta)
    def get(self, request: Request, ticket_id: UUID) -> Response:
        """What came to the ticket after a cursor, in order, and how messages on screen are now."""
        query = self.read_query(ThreadQuery)
        position, seq = map(int, query.after.split("."))
        states = None
        if query.states:
            first, last = map(int, query.states.split(".."))
            if not first <= last < first + MOST_STATES:
                raise ValidationFailed([{"field": "states", "message": f"No máximo {MOST_STATES} posições."}])
            states = (first, last)
        delta = thread_delta(self.viewer, ticket_id, position=position, seq=seq, states=states, limit=query.limit)
        data = {
            "items": [thread_item_json(item, self.viewer) for item in delta.items],
            "states": [thread_message_json(row, self.viewer) for row in delta.states],
        }
        return answer(data, meta={"cursor": delta.cursor, "more": delta.more})


class NoteListView(TicketAPIView):
    permissions: ClassVar = {"GET": "tickets:read", "POST": "notes:write"}

    @describe(NoteShape, many=True, query=Query)
    def get(self, request: Request, ticket_id: UUID) -> Response:
        """The notes of a ticket that the caller may read, oldest first."""
        query, ticket = self.read_query(Query), find_ticket(self.viewer, ticket_id)
        notes = Note.objects.filter(visible_notes(self.viewer), ticket=ticket).select_related("author")
        return self.answer_page(notes, query, note_json, keys=("seq",))

    @describe(NoteShape, body=NoteBody, code=201)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """Write a note; a private one is for its author and supervisors."""
        body = self.read_body(NoteBody)
        note = lifecycle.add_note(
            actor=self.user, ticket_id=ticket_id, body=body.body, visibility=body.visibility, now=timezone.now()
        )
        return answer(note_json(note), code=status.HTTP_201_CREATED)


class EventListView(TicketAPIView):
    permissions: ClassVar = {"GET": "tickets:read"}

    @describe(EventShape, many=True, query=Query)
    def get(self, request: Request, ticket_id: UUID) -> Response:
        """The history of a ticket, oldest first."""
        query, ticket = self.read_query(Query), find_ticket(self.viewer, ticket_id)
        events = TicketEvent.objects.filter(ticket=ticket).select_related("actor")
        return self.answer_page(events, query, event_json, keys=("seq",))


class DraftView(TicketAPIView):
    permissions: ClassVar = {"GET": "tickets:read", "PUT": "tickets:read", "DELETE": "tickets:read"}

    @describe(DraftShape, nullable=True)
    def get(self, request: Request, ticket_id: UUID) -> Response:
        """What the caller began to write; null for nothing."""
        ticket = find_ticket(self.viewer, ticket_id)
        return _draft_answer(Draft.objects.filter(user=self.user, ticket=ticket).first())

    @describe(DraftShape, body=DraftBody, nullable=True)
    def put(self, request: Request, ticket_id: UUID) -> Response:
        """Keep what the caller began to write; without text and files it is removed."""
        body = self.read_body(DraftBody)
        draft = lifecycle.save_draft(
            actor=self.user, ticket_id=ticket_id, kind=body.kind, body=body.body, reply_to_id=body.reply_to_id,
            upload_ids=body.upload_ids,
        )  # fmt: skip
        return _draft_answer(draft)

    @describe(code=204)
    def delete(self, request: Request, ticket_id: UUID) -> Response:
        """Forget it."""
        lifecycle.delete_draft(actor=self.user, ticket_id=ticket_id)
        return Response(status=status.HTTP_204_NO_CONTENT)


def _draft_answer(draft: Draft | None) -> Response:
    return answer(draft_json(draft) if draft else None)


def _meta(
    query: MessageQuery,
    *,
    older: str | None = None,
    newer: str | None = None,
    before: int | None = None,
    after: int | None = None,
) -> dict[str, Any]:
    return {"nextCursor": older, "previousCursor": newer, "before": before, "after": after, "limit": query.limit}
