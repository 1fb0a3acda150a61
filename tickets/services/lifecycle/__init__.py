"""What people do with a ticket."""

from tickets.services.lifecycle.desk import add_note, delete_draft, mark_read, mark_unread, save_draft
from tickets.services.lifecycle.states import (
    NotAllowed,
    UnableToAct,
    UnableToAssign,
    UnableToReopen,
    UnableToTake,
    VersionConflict,
    assign_ticket,
    close_ticket,
    edit_ticket,
    reopen_ticket,
    take_ticket,
    unassign_ticket,
)
from tickets.services.lifecycle.waiting import snooze_ticket, wake_ticket

__all__ = [
    "NotAllowed",
    "UnableToAct",
    "UnableToAssign",
    "UnableToReopen",
    "UnableToTake",
    "VersionConflict",
    "add_note",
    "assign_ticket",
    "close_ticket",
    "delete_draft",
    "edit_ticket",
    "mark_read",
    "mark_unread",
    "reopen_ticket",
    "save_draft",
    "snooze_ticket",
    "take_ticket",
    "unassign_ticket",
    "wake_ticket",
]
