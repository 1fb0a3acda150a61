"""The two pages of the desk, whole for people without scripts, in parts for those with them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET

from tickets.models import CloseReason, Draft
from tickets.policy import Viewer
from tickets.queries import ThreadPage, TicketDetail, list_page, tab_counts, thread_page, ticket_detail
from tickets.transports import get_transport
from tickets.views.access import DeskRequest, by_script, desk
from tickets.views.shown import show_row, show_thread

TABS = {"mine": _("Mine"), "queue": _("Queue"), "all": _("All"), "ended": _("Ended")}
SORTS = {"waiting": _("Longest wait first"), "newest": _("Newest first"), "oldest": _("Oldest first")}
MOST_ROWS = 100


@require_GET
def home(_request: DeskRequest) -> HttpResponse:
    """The desk is where everyone begins."""
    return redirect("desk:inbox")


@require_GET
@desk
def inbox(request: DeskRequest) -> HttpResponse:
    """The desk without an open ticket."""
    if by_script(request) and not request.headers.get("HX-History-Restore-Request"):
        return render(request, "tickets/_nothing.html", start_context(request.viewer))
    return render(request, "tickets/inbox.html", {**list_context(request), **start_context(request.viewer)})


@require_GET
@desk
def ticket(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """The desk with a ticket open; for a script only the pane of the ticket."""
    context = ticket_context(request, ticket_id)
    if by_script(request) and not request.headers.get("HX-History-Restore-Request"):
        return render(request, "tickets/_ticket.html", context)
    return render(request, "tickets/inbox.html", {**list_context(request), **context})


def list_context(request: DeskRequest) -> dict[str, Any]:
    """Rows, tabs with counts and sorts of the list that the address asks for."""
    tab, sort = chosen(request)
    limit = request.GET.get("limit", "")
    page = list_page(
        request.viewer, tab, sort, request.GET.get("cursor") or None,
        min(int(limit), MOST_ROWS) if limit.isdigit() and int(limit) else 50,
    )  # fmt: skip
    counts, now = tab_counts(request.viewer), timezone.now()
    return {
        "rows": [show_row(row, request.user, now) for row in page.rows],
        "tab": tab,
        "sort": sort,
        "query": urlencode({"tab": tab, "sort": sort}),
        "next": urlencode({"tab": tab, "sort": sort, "cursor": page.next_cursor}) if page.next_cursor else "",
        "tabs": [(key, name, counts[key]) for key, name in TABS.items()],
        "sorts": [(key, name) for key, name in SORTS.items() if tab != "ended" or key != "waiting"],
        "unread": counts["unread"],
        "in_no_queue": not request.viewer.sees_all and not request.viewer.unassigned and not request.viewer.whole,
    }


def chosen(request: DeskRequest) -> tuple[str, str]:
    """Tab and sort of the address; an agent begins with their own tickets, a supervisor with all."""
    tab, sort = request.GET.get("tab", ""), request.GET.get("sort", "")
    if tab not in TABS:
        tab = "all" if request.user.is_supervisor else "mine"
    if sort not in SORTS or (tab, sort) == ("ended", "waiting"):
        sort = "newest" if tab == "ended" else "waiting"
    return tab, sort


def ticket_context(request: DeskRequest, ticket_id: UUID) -> dict[str, Any]:
    """Everything of one open ticket: header, history, composer, panel."""
    detail = ticket_detail(request.viewer, ticket_id)
    around = _message_asked_for(request)
    page = thread_page(request.viewer, ticket_id, around=around)
    draft = Draft.objects.filter(user=request.user, ticket_id=ticket_id).first()
    return {
        **panel_context(request, detail),
        **history_context(request, page, detail.row.unread),
        "typed": draft.body if draft else "",
        "kind": draft.kind if draft else "REPLY",
        "title": detail.row.ticket.contact.name,
        "at_message": around,
    }


def history_context(request: DeskRequest, page: ThreadPage, unread: int = 0) -> dict[str, Any]:
    """A part of the thread."""
    return {
        "ticket": page.ticket,
        "items": show_thread(page.items, request.user, unread=(page.ticket.pk, page.read_position) if unread else None),
        "cursor": page.cursor,
        "older": page.older or "",
        "newer": page.newer or "",
        "read_position": page.read_position,
    }


def panel_context(request: DeskRequest, detail: TicketDetail) -> dict[str, Any]:
    """Header, notices of the composer and context panel."""
    row, ticket_ = detail.row, detail.row.ticket
    line = get_transport(ticket_.channel).line(ticket_.session_id) if ticket_.session_id else None
    mine = ticket_.assignee_id == request.user.pk
    supervises = request.user.may("tickets:assign-others")
    return {
        "row": row,
        "ticket": ticket_,
        "contact": ticket_.contact,
        "lead": row.lead,
        "detail": detail,
        "line": line,
        "mine": mine,
        "may_take": ticket_.is_live and not mine and (ticket_.assignee_id is None or supervises),
        "reasons": CloseReason.objects.for_tenant(ticket_.tenant_id).filter(is_active=True),
        "back": reverse("desk:inbox") + "?" + urlencode(dict(zip(("tab", "sort"), chosen(request), strict=True))),
    }


def start_context(viewer: Viewer) -> dict[str, Any]:
    """The pane without a ticket."""
    return {"counts": tab_counts(viewer)}


def _message_asked_for(request: DeskRequest) -> UUID | None:
    try:
        return UUID(request.GET.get("m", ""))
    except ValueError:
        return None
