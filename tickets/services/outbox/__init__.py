"""The one service that accepts messages and the one that sends them; nothing else reaches a channel's send route."""

from tickets.services.outbox.accepting import (
    Queued,
    find_ticket,
    line_of_session,
    queue_message,
    queue_to_contact,
    queue_to_ticket,
)
from tickets.services.outbox.actions import (
    cancel_message,
    dismiss_message,
    find_own_message,
    reschedule_message,
    resend_message,
)
from tickets.services.outbox.checking import Wish
from tickets.services.outbox.circuit import close_circuit
from tickets.services.outbox.holding import free_held, release_held, wake_session
from tickets.services.outbox.keying import check_key
from tickets.services.outbox.purging import purge_outbox
from tickets.services.outbox.scheduling import release_scheduled
from tickets.services.outbox.sending import send_due, stopping
from tickets.services.outbox.sweeping import sweep_outbox
from tickets.services.outbox.waking import move_queued, sender_key, wake_sender

__all__ = [
    "Queued",
    "Wish",
    "cancel_message",
    "check_key",
    "close_circuit",
    "dismiss_message",
    "find_own_message",
    "find_ticket",
    "free_held",
    "line_of_session",
    "move_queued",
    "purge_outbox",
    "queue_message",
    "queue_to_contact",
    "queue_to_ticket",
    "release_held",
    "release_scheduled",
    "reschedule_message",
    "resend_message",
    "send_due",
    "sender_key",
    "stopping",
    "sweep_outbox",
    "wake_sender",
    "wake_session",
]
