"""Addresses under /api/ about tickets."""

from __future__ import annotations

from django.urls import path

from tickets.api import queues, threads, tickets

_TICKET = "api/tickets/<uuid:ticket_id>"

urlpatterns = [
    path("api/tickets", tickets.TicketListView.as_view(), name="api-tickets"),
    path("api/tickets/counts", tickets.TicketCountsView.as_view(), name="api-ticket-counts"),
    path(_TICKET, tickets.TicketView.as_view(), name="api-ticket"),
    path(f"{_TICKET}/assign", tickets.AssignView.as_view(), name="api-ticket-assign"),
    path(f"{_TICKET}/unassign", tickets.UnassignView.as_view(), name="api-ticket-unassign"),
    path(f"{_TICKET}/close", tickets.CloseView.as_view(), name="api-ticket-close"),
    path(f"{_TICKET}/reopen", tickets.ReopenView.as_view(), name="api-ticket-reopen"),
    path(f"{_TICKET}/read", tickets.ReadView.as_view(), name="api-ticket-read"),
    path(f"{_TICKET}/unread", tickets.UnreadView.as_view(), name="api-ticket-unread"),
    path(f"{_TICKET}/messages", threads.TicketMessagesView.as_view(), name="api-ticket-messages"),
    path(f"{_TICKET}/thread", threads.ThreadView.as_view(), name="api-ticket-thread"),
    path(f"{_TICKET}/notes", threads.NoteListView.as_view(), name="api-ticket-notes"),
    path(f"{_TICKET}/events", threads.EventListView.as_view(), name="api-ticket-events"),
    path(f"{_TICKET}/draft", threads.DraftView.as_view(), name="api-ticket-draft"),
    path("api/queues", queues.QueueListView.as_view(), name="api-queues"),
    path("api/close-reasons", queues.CloseReasonListView.as_view(), name="api-close-reasons"),
]
