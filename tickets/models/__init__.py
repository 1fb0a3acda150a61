"""The conversation: queues, tickets, messages and what hangs on them."""

from tickets.models.messages import (
    Message,
    MessageMedia,
    MessageReaction,
    MessageRevision,
    OutboundAttempt,
)
from tickets.models.polls import Poll, PollVote
from tickets.models.queues import CloseReason, Queue, QueueMembership
from tickets.models.runs import TimelineRun
from tickets.models.tickets import Draft, Note, ReadMarker, Ticket, TicketCounter, TicketEvent, TicketTag

__all__ = [
    "CloseReason",
    "Draft",
    "Message",
    "MessageMedia",
    "MessageReaction",
    "MessageRevision",
    "Note",
    "OutboundAttempt",
    "Poll",
    "PollVote",
    "Queue",
    "QueueMembership",
    "ReadMarker",
    "Ticket",
    "TicketCounter",
    "TicketEvent",
    "TicketTag",
    "TimelineRun",
]
