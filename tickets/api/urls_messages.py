"""Addresses of the outbox. The list of a ticket's messages shares the address of its door: it inherits TicketDoor."""

from __future__ import annotations

from django.urls import path

from tickets.api.messages import CancelView, DismissView, MessageListView, MessageView, ResendView, TicketDoor

_MESSAGE = "api/messages/<uuid:message_id>"

urlpatterns = [
    path("api/tickets/<uuid:ticket_id>/messages", TicketDoor.as_view(), name="ticket-door"),
    path("api/messages", MessageListView.as_view(), name="message-list"),
    path(_MESSAGE, MessageView.as_view(), name="message"),
    path(f"{_MESSAGE}/cancel", CancelView.as_view(), name="message-cancel"),
    path(f"{_MESSAGE}/resend", ResendView.as_view(), name="message-resend"),
    path(f"{_MESSAGE}/dismiss", DismissView.as_view(), name="message-dismiss"),
]
