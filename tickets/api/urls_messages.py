"""Addresses of the outbox. A ticket's door stands with the list of its messages (threads.TicketMessagesView)."""

from __future__ import annotations

from django.urls import path

from tickets.api.messages import CancelView, DismissView, MessageListView, MessageView, ResendView

_MESSAGE = "api/messages/<uuid:message_id>"

urlpatterns = [
    path("api/messages", MessageListView.as_view(), name="message-list"),
    path(_MESSAGE, MessageView.as_view(), name="message"),
    path(f"{_MESSAGE}/cancel", CancelView.as_view(), name="message-cancel"),
    path(f"{_MESSAGE}/resend", ResendView.as_view(), name="message-resend"),
    path(f"{_MESSAGE}/dismiss", DismissView.as_view(), name="message-dismiss"),
]
