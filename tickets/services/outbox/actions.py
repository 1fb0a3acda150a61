"""What people do with a message of the outbox: cancel, reschedule, resend, dismiss (spec/outbound.md section 10)."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.errors import NotFound
from leadengine.sql import dumps
from tickets.models import Message, MessageMedia
from tickets.policy import load_viewer
from tickets.services.lifecycle import NotAllowed
from tickets.services.outbox.accepting import Queued, line_of_session
from tickets.services.outbox.announcing import Place, announce_change
from tickets.services.outbox.appending import append_row
from tickets.services.outbox.checking import check_ticket
from tickets.services.outbox.recipients import load_recipients
from tickets.services.outbox.refusals import AlreadySending, IdempotencyKeyReused, ResendNotAllowed
from tickets.services.outbox.scheduling import check_time
from tickets.services.outbox.waking import wake_sender, wake_successors
from tickets.services.state import lock_tickets
from tickets.transports import Line, get_transport

CHANNEL = "WHATSAPP"

_COPIED = (
    "tenant_id", "ticket_id", "contact_id", "direction", "type", "content", "caption", "reply_to_id", "payload",
    "external_reference",
)  # fmt: skip
_COPIED_FILE = (
    "media_type", "mime_type", "file_name", "size", "voice", "state", "source", "sha256", "storage_key", "upload_id",
)  # fmt: skip

_DECIDING = ("status", "external_id", "session_id", "content", "caption", "metadata")
_OF_ITS_OWN = {"settledBy", "requestedText", "canceledBy"}  # metadata that tells what became of one row


def cancel_message(*, actor: User, message_id: UUID, now: datetime) -> Message:
    """Withdraw a message that waits. Raises: NotFound, NotAllowed, AlreadySending once it was claimed or ended."""
    message = find_own_message(actor, message_id)
    if message.status == Message.Status.CANCELED:
        return message
    changes: dict[str, Any] = {"status": "CANCELED", "wait_reason": None, "not_before": None, "error": None}
    if message.status == Message.Status.SCHEDULED:
        changes["sent_at"] = now  # in the thread it stands where it was canceled, not at a time that never comes
    if not _change(message, ("QUEUED", "SCHEDULED"), changes, now):
        raise AlreadySending(status=Message.objects.values_list("status", flat=True).get(pk=message_id))
    metrics.count(metrics.outbound.labels(origin=message.source.lower(), type=message.type.lower(), status="canceled"))
    wake_successors(ticket_ids=[message.ticket_id])
    return _read(message_id)


def reschedule_message(*, actor: User, message_id: UUID, scheduled_at: datetime, now: datetime) -> Message:
    """Give a scheduled message another time.

    Raises: NotFound, NotAllowed, ValidationFailed for a time that is not allowed, AlreadySending once its time came.
    """
    message = find_own_message(actor, message_id)
    check_time(scheduled_at, now)
    changes = {"scheduled_at": scheduled_at, "sent_at": scheduled_at}
    if not _change(message, ("SCHEDULED",), changes, now):
        raise AlreadySending(status=Message.objects.values_list("status", flat=True).get(pk=message_id))
    return _read(message_id)


def resend_message(*, actor: User, message_id: UUID, confirm_duplicate: bool, now: datetime) -> Queued:
    """Send again: the same row where it is proved not to have left, else a new row that points to it.

    It leaves at once, also where it was scheduled, and through the line that replaced its own.
    Raises: NotFound, NotAllowed, TicketClosed, ContactBlocked, NotAssignee, InstanceRequired, what
    Transport.require_file raises, and ResendNotAllowed for a row that is not FAILED or UNCONFIRMED, or that may have
    left while nobody confirmed that it may arrive twice.
    """
    message = find_own_message(actor, message_id)
    state = lock_tickets(tenant_id=message.tenant_id, ids=[message.ticket_id])[message.ticket_id]
    contact = load_recipients(tenant_id=message.tenant_id, ids=[message.contact_id])[message.contact_id]
    check_ticket(state=state, contact=contact, author=actor, source=Message.Source.AGENT)
    message.refresh_from_db(fields=_DECIDING)  # another press, an echo or an ack may have come before us to the lock
    proved = message.status == Message.Status.FAILED and message.external_id is None
    ended = message.status in {Message.Status.FAILED, Message.Status.UNCONFIRMED}
    if not proved and not (ended and confirm_duplicate):
        raise ResendNotAllowed(status=message.status)
    line = line_of_session(session_id=message.session_id)
    file = MessageMedia.objects.filter(message=message).first()
    copies = [] if proved else _find_copies(message)
    for earlier in copies:
        if earlier.status != Message.Status.CANCELED:
            return Queued(earlier, replayed=True)  # pressed twice, it is still one
    if file is not None and file.upload_id is not None:
        get_transport(CHANNEL).require_file(tenant_id=message.tenant_id, source=file.source, now=now)
    if proved:
        return _queue_again(message, line, now)
    copy = Message(
        **{name: getattr(message, name) for name in _COPIED}, source=Message.Source.AGENT, author=actor,
        status=Message.Status.QUEUED, session_id=line.id, sent_at=now, received_at=now, resend_of=message,
        idempotency_key=f"resend:{message.pk}:{len(copies) + 1}",
        metadata={name: value for name, value in message.metadata.items() if name not in _OF_ITS_OWN},
    )  # fmt: skip
    if (asked := message.metadata.get("requestedText")) is not None:  # the broker altered what left the first time
        copy.content, copy.caption = ("", asked) if message.caption else (asked, "")
    media = file and MessageMedia(
        **{name: getattr(file, name) for name in _COPIED_FILE}, tenant_id=copy.tenant_id, message=copy
    )
    if not append_row(state=state, message=copy, media=media, contact=contact, now=now):
        raise IdempotencyKeyReused
    metrics.count(metrics.outbound_settled.labels(by="resend"))
    return Queued(copy, replayed=False)


def dismiss_message(*, actor: User, message_id: UUID, now: datetime) -> Message:
    """Hide the alert of a failed or unconfirmed message; its state stays. Raises: NotFound, NotAllowed."""
    message = find_own_message(actor, message_id)
    _change(message, ("FAILED", "UNCONFIRMED"), {"dismissed_at": now}, now)
    return _read(message_id)


def find_own_message(actor: User, message_id: UUID) -> Message:
    """A message of ours in a ticket that the actor sees. Raises: NotFound; NotAllowed unless author or supervisor."""
    message: Message | None = (
        Message.objects.filter(pk=message_id, direction=Message.Direction.OUTBOUND).select_related("ticket").first()
    )
    if message is None or not load_viewer(actor).sees(message.ticket.queue_id, message.ticket.assignee_id):
        raise NotFound
    if message.author_id != actor.pk and not (actor.is_supervisor or actor.is_superuser):
        raise NotAllowed
    return message


def _queue_again(message: Message, line: Line, now: datetime) -> Queued:
    """The same row: its age and its tries begin anew. Raises: ResendNotAllowed when it lost a race."""
    changes = {
        "status": "QUEUED", "error": None, "failed_at": None, "sent_at": now, "wait_reason": None, "not_before": None,
        "dismissed_at": None, "scheduled_at": None,
    }  # fmt: skip
    unseen = {
        "attempts": 0, "received_at": now, "session_id": line.id, "cancelable_until": None,
        "cancel_if_customer_replies": False,
    }  # fmt: skip
    if not _change(message, ("FAILED",), changes, now, unseen):
        raise ResendNotAllowed(status=Message.objects.values_list("status", flat=True).get(pk=message.pk))
    wake_sender(line.id)
    return Queued(_read(message.pk), replayed=False)


def _find_copies(message: Message) -> list[Message]:
    """The rows that sent it again, canceled ones among them; the ticket's lock keeps others from adding one."""
    return list(Message.objects.filter(resend_of=message).select_related("author", "media").order_by("id"))


def _read(message_id: UUID) -> Message:
    message: Message = Message.objects.select_related("author", "media").get(pk=message_id)
    return message


def _change(
    message: Message,
    states: tuple[str, ...],
    changes: dict[str, Any],
    now: datetime,
    unseen: dict[str, Any] | None = None,
) -> bool:
    """Change a row if it is still in one of these states, and tell message.updated of all but `unseen`.

    False, and nothing done, when it lost the race.
    """
    columns = changes | (unseen or {})
    sets = ", ".join(f"{name} = %s" for name in columns)
    values = [dumps(value) if isinstance(value, dict) else value for value in columns.values()]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE tickets_message SET {sets}, version = version + 1 WHERE id = %s AND status = ANY(%s) "  # noqa: S608
            "RETURNING version",
            [*values, message.pk, list(states)],
        )
        row = cursor.fetchone()
    if row is None:
        return False
    place = Place(
        message.tenant_id, message.ticket_id, message.ticket.queue_id, message.ticket.assignee_id, message.pk,
        message.position,
    )  # fmt: skip
    announce_change(place=place, version=row[0], changes=changes, now=now)
    return True
