"""The conversation: queues, tickets, messages and what hangs on them."""

from tickets.models.messages import (
    Message,
    MessageMedia,
    MessageReaction,
    MessageRevision,
    OutboundAttempt,
)
from tickets.models.queues import CloseReason, Queue, QueueMembership
from tickets.models.tickets import Draft, Note, ReadMarker, Ticket, TicketCounter, TicketEvent, TicketTag
from tickets.models.runs import TimelineRun

__all__ = [
    "CloseReason",
    "Draft",
    "Message",
    "MessageMedia",
    "MessageReaction",
    "MessageRevision",
    "Note",
    "OutboundAttempt",
    "Queue",
    "QueueMembership",
    "ReadMarker",
    "Ticket",
    "TicketCounter",
    "TicketEvent",
    "TicketTag",
]
    "TimelineRun",
