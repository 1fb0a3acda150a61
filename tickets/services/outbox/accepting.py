"""Accepting a message: the row is the outbox (spec/outbound.md sections 4 to 6). No door makes an outgoing call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.errors import NotFound, ValidationFailed
from leadengine.ids import uuid7
from leads.services import lock_current
from tickets.models import Message, MessageMedia, Ticket
from tickets.models.tickets import LIVE
from tickets.payloads import MediaPayload, Payload, parse_payload
from tickets.policy import load_viewer
from tickets.services.announce import announce_ticket
from tickets.services.lifecycle import reopen_ticket
from tickets.services.opening import QueueMissing, Wanted, open_tickets
from tickets.services.outbox.announcing import announce_queued
from tickets.services.outbox.checking import Wish, check_wish
from tickets.services.outbox.recipients import Recipient, load_recipients
from tickets.services.outbox.refusals import (
    IdempotencyKeyMismatch,
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    InstanceRequired,
)
from tickets.services.outbox.waking import wake_sender
from tickets.services.shapes import iso
from tickets.services.state import TicketState, lock_tickets, save_tickets
from tickets.transports import Line, Transport, get_transport

CHANNEL = "WHATSAPP"
_KEY = re.compile(r"[\x20-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Queued:
    """An accepted message; `replayed` when its key had been accepted before."""

    message: Message
    replayed: bool


def queue_message(
    *,
    ticket_id: UUID,
    author: User | None,
    payload: dict[str, Any],
    source: str = Message.Source.AGENT,
    idempotency_key: str | None = None,
    expected_last_message_id: UUID | None = None,
    force: bool = False,
    reopen: bool = False,
    when_unavailable: str = "fail",
    external_reference: str | None = None,
    session: Line | None = None,
    now: datetime,
) -> Queued:
    """Accept a message into a ticket: a QUEUED row, its events, and a wake-up of the sender on commit.

    Runs in the caller's scope and transaction. `author` None is the system, which sees every ticket of the scope.
    Raises: NotConfigured, NotFound, ValidationFailed, and the refusals of spec/outbound.md section 6, in its order.
    """
    transport = get_transport(CHANNEL)
    transport.require_configured()
    ticket = find_ticket(ticket_id=ticket_id, author=author)
    wish = Wish(
        author=author, payload=payload, source=source, idempotency_key=idempotency_key,
        expected_last_message_id=expected_last_message_id, force=force, when_unavailable=when_unavailable,
        external_reference=external_reference, session=session,
    )  # fmt: skip

    def place() -> tuple[TicketState, Line]:
        if reopen and author is not None and ticket.status not in LIVE:
            reopen_ticket(actor=author, ticket_id=ticket_id, now=now)
        state = lock_tickets(tenant_id=ticket.tenant_id, ids=[ticket_id])[ticket_id]
        return state, session or line_of_session(session_id=state.session_id)

    return _accept(transport, wish, ticket.tenant_id, f"ticket:{ticket_id}", place, now)


def queue_to_contact(*, contact_id: UUID, line: Line, wish: Wish, now: datetime, target: str = "") -> Queued:
    """Accept a message to a contact on a line: into its open ticket there, or into one that is opened for it.

    A new ticket goes to the line's default queue, assigned to the author when a person sends. `target` names what the
    caller addressed, for the idempotency hash; a merged contact is the one it is part of. Raises: as queue_message,
    and QueueMissing.
    """
    transport = get_transport(CHANNEL)
    transport.require_configured()
    current = lock_current(tenant_id=line.tenant_id, contact_id=contact_id)
    if current is None:
        raise NotFound

    def place() -> tuple[TicketState, Line]:
        return _open_ticket(line, current, wish, now), line

    return _accept(transport, wish, line.tenant_id, target or f"contact:{contact_id}", place, now)


def find_ticket(*, ticket_id: UUID, author: User | None) -> Ticket:
    """The ticket, if the author may see it. Raises: NotFound for a foreign, unknown or invisible one alike."""
    rows = Ticket.objects.filter(pk=ticket_id).only("id", "tenant_id", "queue_id", "assignee_id", "status")
    ticket: Ticket | None = rows.first()
    if ticket is None or (author is not None and not load_viewer(author).sees(ticket.queue_id, ticket.assignee_id)):
        raise NotFound
    return ticket


def line_of_session(*, session_id: UUID | None) -> Line:
    """The line of a session, or the one that replaced it. Raises: InstanceRequired when there is none."""
    transport = get_transport(CHANNEL)
    line = transport.line(session_id) if session_id else None
    if line is not None and line.replaced_by is not None:
        line = transport.line(line.replaced_by)
    if line is None:
        raise InstanceRequired
    return line


def choose_key(*candidates: str | None) -> str | None:
    """The one idempotency key among those a caller gave. Raises: IdempotencyKeyMismatch, ValidationFailed."""
    keys = {key for key in candidates if key is not None}
    if len(keys) > 1:
        raise IdempotencyKeyMismatch
    key = next(iter(keys), None)
    if key is not None and not _KEY.fullmatch(key):
        raise ValidationFailed([{"field": "idempotencyKey", "message": "De 1 a 128 caracteres ASCII imprimíveis."}])
    return key


# --- Steps, in the order they are called --------------------------------------------------------------------------


def _accept(
    transport: Transport,
    wish: Wish,
    tenant_id: UUID,
    target: str,
    place: Callable[[], tuple[TicketState, Line]],
    now: datetime,
) -> Queued:
    content = parse_payload(wish.payload)
    key = choose_key(wish.idempotency_key, _key_in(content))
    if key is None and settings.OUTBOUND_REQUIRE_IDEMPOTENCY_KEY:
        raise IdempotencyKeyRequired
    digest = _digest(target, wish)
    earlier = _find_replay(tenant_id, key, digest)
    if earlier is not None:
        return earlier
    state, line = place()
    contact = load_recipients(tenant_id=tenant_id, ids=[state.contact_id])[state.contact_id]
    check_wish(transport, wish, state, line, contact, content)
    message = _row(wish, tenant_id, state, line, content, now)
    message.idempotency_key, message.request_hash = key or uuid7().hex, digest
    if not append_row(state=state, message=message, media=_media_of(message, content), contact=contact, now=now):
        replay = _find_replay(tenant_id, key, digest)
        assert replay is not None  # noqa: S101 - the constraint says that the row exists
        return replay
    if state.entries:
        announce_ticket(tenant_id=tenant_id, state=state, changed=["status", "assigneeId"], now=now)
        transport.ticket_changed(tenant_id=tenant_id, ticket_id=state.id, now=now)
    return Queued(message, replayed=False)


def append_row(
    *, state: TicketState, message: Message, media: MessageMedia | None, contact: Recipient, now: datetime
) -> bool:
    """Insert a QUEUED row at the locked ticket's next position, announce it, wake the sender.

    False, and nothing done, when another door took the idempotency key at the same moment: its row can be read now.
    """
    message.position = state.last_position + 1
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
    wake_sender(message.session_id)
    metrics.count(metrics.outbound.labels(origin=message.source.lower(), type=message.type.lower(), status="queued"))
    return True


def _key_in(content: Payload) -> str | None:
    key = content.metadata.get("idempotencyKey")
    return None if key is None else str(key)


def _digest(target: str, wish: Wish) -> str:
    parts = [target, str(wish.session.id) if wish.session else None, wish.payload]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return sha256(text.encode()).hexdigest()


def _find_replay(tenant_id: UUID, key: str | None, digest: str) -> Queued | None:
    if key is None:
        return None
    row = Message.objects.for_tenant(tenant_id).select_related("author").filter(idempotency_key=key).first()
    if row is None:
        return None
    if row.request_hash != digest:
        raise IdempotencyKeyReused
    metrics.count(metrics.outbound_replays)
    return Queued(row, replayed=True)


def _open_ticket(line: Line, contact_id: UUID, wish: Wish, now: datetime) -> TicketState:
    """Lock the contact's open ticket on the line, or open one; a person who writes first takes it."""
    rows = Ticket.objects.for_tenant(line.tenant_id).filter(contact_id=contact_id, session_id=line.id, status__in=LIVE)
    for ticket_id in rows.values_list("id", flat=True):
        state = lock_tickets(tenant_id=line.tenant_id, ids=[ticket_id])[ticket_id]
        if state.status in LIVE:
            if wish.author and not load_viewer(wish.author).sees(state.queue_id, state.assignee_id):
                raise NotFound
            return state
    wanted = [Wanted((contact_id, line.id), now, True, line.default_queue_id)]
    opened = open_tickets(tenant_id=line.tenant_id, wanted=wanted, now=now)
    if not opened:
        raise QueueMissing
    state = opened[contact_id, line.id]
    if state.is_new and wish.author is not None and wish.source == Message.Source.AGENT:
        state.assignee_id, state.status = wish.author.pk, "ASSIGNED"
        state.note_entry("ASSIGNED", at=now, actor_id=wish.author.pk, to=wish.author.name)
    return state


def _row(wish: Wish, tenant_id: UUID, state: TicketState, line: Line, content: Payload, now: datetime) -> Message:
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
        status=Message.Status.QUEUED,
        source=wish.source,
        author=wish.author,
        reply_to_id=content.reply_to,
        metadata=metadata,
        sent_at=now,
        received_at=now,
        payload=content.stored() | ({"to": wish.to} if wish.to else {}),
        external_reference=wish.external_reference or content.external_id,
        wait_reason=None if line.connected else "SESSION_OFFLINE",
    )


def _media_of(message: Message, content: Payload) -> MessageMedia | None:
    """The file of a message, ready because the channel fetches it from its address, which only `source` holds."""
    if not isinstance(content, MediaPayload) or content.media is None:
        return None
    return MessageMedia(
        tenant_id=message.tenant_id,
        message=message,
        state=MessageMedia.State.READY,
        media_type=message.type.lower(),
        mime_type=content.mime_type or "",
        file_name=content.file_name or "",
        size=content.media.size,
        voice=getattr(content, "voice", False),
        source={"url": content.media.url},
    )


def _reason_to_wait(message: Message, now: datetime) -> str | None:
    """What a new row will be seen to wait for: its session's pause, or an earlier message of its ticket."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT coalesce(
                   (SELECT wait_reason FROM tickets_message WHERE session_id = %s AND status = 'QUEUED'
                        AND wait_reason IN ('SESSION_OFFLINE', 'PACING') AND not_before > %s LIMIT 1),
                   (SELECT 'ORDER' FROM tickets_message
                        WHERE ticket_id = %s AND status IN ('QUEUED', 'SENDING') LIMIT 1))""",
            [message.session_id, now, message.ticket_id],
        )
        reason: str | None = cursor.fetchone()[0]
    return reason
