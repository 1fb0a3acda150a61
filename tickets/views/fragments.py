"""Parts of the desk that scripts ask for: rows, what is new in a thread, panels, thumbnails."""

from __future__ import annotations

import re
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from leadengine.errors import NotFound
from tickets.models import Message
from tickets.policy import visible_tickets
from tickets.queries import thread_delta, thread_page, ticket_detail
from tickets.views.access import DeskRequest, desk
from tickets.views.pages import history_context, list_context, panel_context
from tickets.views.shown import show_items, show_message

_CURSOR, _RANGE = re.compile(r"(\d{1,18})\.(\d{1,18})"), re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_END = 10**18


@require_GET
@desk
def list_rows(request: DeskRequest) -> HttpResponse:
    """Rows of `?tab=&sort=&cursor=&limit=` with the live counts of all tabs."""
    return render(request, "tickets/_list.html", list_context(request))


@require_GET
@desk
def thread(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """A part of the history: `?before=` or `?newer=` a message, nothing for the newest part; or what is new.

    `?after=P.E` is what came after a cursor, `?states=from..to` messages on screen as they are now.
    """
    states = _RANGE.fullmatch(request.GET.get("states", ""))
    after = _CURSOR.fullmatch(request.GET.get("after", ""))
    if not after and not states:
        page = thread_page(
            request.viewer,
            ticket_id,
            before=_message(request.GET.get("before")),
            after=_message(request.GET.get("newer")),
        )
        return render(request, "tickets/_thread_part.html", history_context(request, page))
    delta = thread_delta(
        request.viewer, ticket_id,
        position=int(after[1]) if after else _END,
        seq=int(after[2]) if after else _END,
        states=(int(states[1]), int(states[2])) if states else None,
    )  # fmt: skip
    changed = [show_message(one, delta.ticket, request.user) for one in delta.states]
    new = show_items(delta.items, request.user)
    context = {
        "ticket": delta.ticket, "items": [*changed, *new], "cursor": delta.cursor if after else "",
        "full": delta.more, "plain": True, "covered": delta.covered,
    }  # fmt: skip
    return render(request, "tickets/_thread_part.html", context)


@require_GET
@desk
def panel(request: DeskRequest, ticket_id: UUID, part: str) -> HttpResponse:
    """The header, the context panel, or the notices above the composer, as they are now."""
    return render(request, f"tickets/_{part}.html", panel_context(request, ticket_detail(request.viewer, ticket_id)))


@require_GET
@desk
def thumbnail(request: DeskRequest, message_id: UUID) -> HttpResponse:
    """The small picture that came with a message, for those who see its ticket."""
    found = (
        Message.objects.filter(pk=message_id, ticket__in=visible_tickets(request.viewer), revoked_at__isnull=True)
        .values_list("media__thumbnail", flat=True)
        .first()
    )
    if not found:
        raise NotFound
    response = HttpResponse(bytes(found), content_type="image/jpeg")
    response["Cache-Control"] = "private, max-age=86400"
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


def _message(text: str | None) -> UUID | None:
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound from error
