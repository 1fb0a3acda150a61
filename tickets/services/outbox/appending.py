"""The row of an accepted message: the outbox itself (spec/outbound.md section 1)."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, connection, transaction

from leadengine import metrics
from tickets.models import Message, MessageMedia
from tickets.payloads import Payload
from tickets.services.outbox.announcing import announce_queued
from tickets.services.outbox.checking import Wish
from tickets.services.outbox.recipients import Recipient
from tickets.services.outbox.waking import wake_sender, wake_sender_at
from tickets.services.shapes import iso
from tickets.services.state import TicketState, save_tickets
from tickets.transports import Line

MOST_UNDO = 30  # seconds


def make_row(
    wish: Wish, *, tenant_id: UUID, state: TicketState, line: Line, content: Payload, now: datetime
) -> Message:
    """The row of a wish, QUEUED or SCHEDULED, without its key and its place. A phone that was named is kept to."""
    undo = _undo_until(wish, now)
    later = wish.scheduled_at is not None
    metadata = content.shown()
    if content.metadata:
        metadata["client"] = content.metadata
    if line.id != state.session_id:
        metadata["whatsapp"] = {
            "instanceId": line.name,
            "instanceOverride": wish.session is not None,
            "overrideUserId": str(wish.author.pk) if wish.author else None,
            "overrideAt": iso(now),
        }
    return Message(
        tenant_id=tenant_id,
        ticket_id=state.id,
        contact_id=state.contact_id,
        session_id=line.id,
        direction=Message.Direction.OUTBOUND,
        type=content.kind,
        content=content.content,
        caption=content.caption or "",
        status=Message.Status.SCHEDULED if later else Message.Status.QUEUED,
        source=Message.Source.SCHEDULED if later else wish.source,
        author=wish.author,
        reply_to_id=content.reply_to,
        metadata=metadata,
        sent_at=wish.scheduled_at or now,  # it stands at the thread's end until it leaves
        received_at=now,
        payload=content.stored() | ({"to": wish.to} if wish.to else {}),
        external_reference=wish.external_reference or content.external_id,
        scheduled_at=wish.scheduled_at,
        cancel_if_customer_replies=later and wish.cancel_if_customer_replies,
        cancelable_until=undo,
        not_before=undo,
        wait_reason="UNDO_WINDOW" if undo else None if later or line.connected else "SESSION_OFFLINE",
    )


def append_row(
    *, state: TicketState, message: Message, media: MessageMedia | None, contact: Recipient, now: datetime
) -> bool:
    """Insert a row at the locked ticket's next position, announce it, wake the sender when it may leave.

    False, and nothing done, when another door took the idempotency key at the same moment: its row can be read now.
    """
    message.position = state.last_position + 1
    if message.status == Message.Status.QUEUED:
        message.wait_reason = message.wait_reason or _reason_to_wait(message, now)
    try:
        with transaction.atomic():
            message.save(force_insert=True)
    except IntegrityError as error:
        if "message_idempotency_unique" not in str(error):
            raise
        return False
    if media is not None:
        media.save(force_insert=True)
    state.last_position = message.position
    save_tickets(tenant_id=message.tenant_id, states=[state])
    announce_queued(ticket=state, message=message, media=media, contact_name=contact.name, now=now)
    assert message.session_id is not None  # noqa: S101 - narrows the type
    if message.cancelable_until is not None:
        wake_sender_at(message.session_id, at=message.cancelable_until, now=now)
    elif message.status == Message.Status.QUEUED:
        wake_sender(message.session_id)
    status, kind = message.status.lower(), message.type.lower()
    metrics.count(metrics.outbound.labels(origin=message.source.lower(), type=kind, status=status))
    return True


def _undo_until(wish: Wish, now: datetime) -> datetime | None:
    """The end of the time in which the tenant lets people take a message back; None where it leaves at once."""
    tenant = wish.author.tenant if wish.author is not None and wish.scheduled_at is None else None
    seconds = tenant.settings.get("undoSeconds") if tenant else None
    if not isinstance(seconds, int) or seconds <= 0:
        return None
    return now + timedelta(seconds=min(seconds, MOST_UNDO))


def _reason_to_wait(message: Message, now: datetime) -> str | None:
    """What a new row will be seen to wait for: its session's pause, or an earlier message of its ticket."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT coalesce(
                   (SELECT wait_reason FROM tickets_message WHERE session_id = %s AND status = 'QUEUED'
                        AND wait_reason IN ('SESSION_OFFLINE', 'PACING', 'CIRCUIT_OPEN') AND not_before > %s LIMIT 1),
                   (SELECT 'ORDER' FROM tickets_message
                        WHERE ticket_id = %s AND status IN ('QUEUED', 'SENDING') LIMIT 1))""",
            [message.session_id, now, message.ticket_id],
        )
        reason: str | None = cursor.fetchone()[0]
    return reason
