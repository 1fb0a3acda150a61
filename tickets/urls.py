"""Addresses of the desk. Those of the API: tickets/api."""

from __future__ import annotations

from django.urls import path

from tickets.views import actions, fragments, pages

app_name = "desk"
_TICKET = "inbox/tickets/<uuid:ticket_id>/"

urlpatterns = [
    path("", pages.home, name="home"),
    path("inbox/", pages.inbox, name="inbox"),
    path("inbox/list/", fragments.list_rows, name="list"),
    path(_TICKET, pages.ticket, name="ticket"),
    path(_TICKET + "thread/", fragments.thread, name="thread"),
    *[
        path(f"{_TICKET}{part}/", fragments.panel, {"part": part}, name=part)
        for part in ("header", "context", "notices")
    ],
    path("inbox/media/<uuid:message_id>/thumbnail", fragments.thumbnail, name="thumbnail"),
    path(_TICKET + "messages/", actions.send, name="send"),
    path(_TICKET + "take/", actions.take, name="take"),
    path(_TICKET + "close/", actions.close, name="close"),
    path(_TICKET + "reopen/", actions.reopen, name="reopen"),
    path(_TICKET + "read/", actions.read, name="read"),
    path(_TICKET + "unread/", actions.unread, name="unread"),
    path(_TICKET + "draft/", actions.draft, name="draft"),
    *[
        path(f"inbox/messages/<uuid:message_id>/{action}/", actions.message, {"action": action}, name=action)
        for action in ("cancel", "resend", "dismiss")
    ],
]
