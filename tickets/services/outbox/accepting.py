"""Accepting a message: the row is the outbox (spec/outbound.md sections 4 to 6). No door makes an outgoing call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from django.conf import settings

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.errors import NotFound, ValidationFailed
from leadengine.ids import uuid7
from leads.services import lock_current
from tickets.models import Message, Ticket
from tickets.models.tickets import LIVE
from tickets.payloads import Payload, parse_payload
from tickets.policy import load_viewer
from tickets.services.announce import announce_ticket
from tickets.services.lifecycle import reopen_ticket
from tickets.services.opening import QueueMissing, Wanted, open_tickets
from tickets.services.outbox.admission import admit, put_off
from tickets.services.outbox.appending import append_row, make_row
from tickets.services.outbox.attaching import media_of, take_file
from tickets.services.outbox.checking import Wish, check_wish
from tickets.services.outbox.recipients import Recipient, load_recipients
from tickets.services.outbox.refusals import (
    ContactPhoneMismatch,
    IdempotencyKeyMismatch,
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    InstanceRequired,
)
from tickets.services.outbox.scheduling import check_time
from tickets.services.state import TicketState, lock_tickets
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
    scheduled_at: datetime | None = None,
    cancel_if_customer_replies: bool = True,
    now: datetime,
) -> Queued:
    """Accept a message into a ticket: a QUEUED row, its events, and a wake-up of the sender on commit.

    With `scheduled_at` the row is SCHEDULED, and waits for that time or, if so wished, for the customer to write first.

    Runs in the caller's scope and transaction. `author` None is the system, which sees every ticket of the scope.
    Raises: NotConfigured, NotFound, ValidationFailed, and the refusals of spec/outbound.md section 6, in its order.
    """
    transport = get_transport(CHANNEL)
    transport.require_configured()
    ticket = find_ticket(ticket_id=ticket_id, author=author)
    wish = Wish(
        author=author, payload=payload, source=source, idempotency_key=idempotency_key,
        expected_last_message_id=expected_last_message_id, force=force, when_unavailable=when_unavailable,
        external_reference=external_reference, session=session, scheduled_at=scheduled_at,
        cancel_if_customer_replies=cancel_if_customer_replies,
    )  # fmt: skip

    def place() -> tuple[TicketState, Line]:
        state = lock_tickets(tenant_id=ticket.tenant_id, ids=[ticket_id])[ticket_id]
        if reopen and author is not None and state.status not in LIVE:
            reopen_ticket(actor=author, ticket_id=ticket_id, now=now)
            state = lock_tickets(tenant_id=ticket.tenant_id, ids=[ticket_id])[ticket_id]
        return state, session or line_of_session(session_id=state.session_id)

    return _accept(transport, wish, ticket.tenant_id, f"ticket:{ticket_id}", place, now)


def queue_to_contact(*, contact_id: UUID, line: Line, wish: Wish, now: datetime, target: str = "") -> Queued:
    """Accept a message to a contact on a line: into its open ticket there, or into one that is opened for it.

    A new ticket goes to the line's default queue, assigned to the author when a person sends. `target` names what the
    caller addressed, for the idempotency hash; a merged contact is the one it is part of. Raises: as queue_message,
    ContactPhoneMismatch for a `wish.to` that is not theirs, and QueueMissing.
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
    """The line of a session, or the last of those that replaced it. Raises: InstanceRequired when there is none."""
    transport = get_transport(CHANNEL)
    line = transport.line(session_id) if session_id else None
    met: set[UUID] = set()
    while line is not None and line.replaced_by is not None and line.id not in met:
        met.add(line.id)
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
    if wish.scheduled_at is not None:
        check_time(wish.scheduled_at, now)  # a replay may come when that time is near, or past
    state, line = place()
    # Under the lock once more: of two calls with one key at once the later one is a replay, whatever it would refuse.
    earlier = _find_replay(tenant_id, key, digest)
    if earlier is not None:
        return earlier
    contact, to = _choose_phone(load_recipients(tenant_id=tenant_id, ids=[state.contact_id])[state.contact_id], wish.to)
    file = take_file(transport, content, tenant_id=tenant_id, line=line, now=now)
    check_wish(transport, wish, state, line, contact, content)
    wait = admit(wish=wish, line=line, ticket_id=state.id, now=now)
    message = make_row(wish, tenant_id=tenant_id, state=state, line=line, content=content, to=to, now=now)
    if wait is not None:
        put_off(message, wait)
    message.idempotency_key, message.request_hash = key or uuid7().hex, digest
    media = media_of(message, content, file)
    if not append_row(state=state, message=message, media=media, contact=contact, now=now):
        replay = _find_replay(tenant_id, key, digest)
        assert replay is not None  # noqa: S101 - the constraint says that the row exists
        return replay
    if state.entries:
        announce_ticket(tenant_id=tenant_id, state=state, changed=["status", "assigneeId"], now=now)
        transport.ticket_changed(tenant_id=tenant_id, ticket_id=state.id, now=now)
    return Queued(message, replayed=False)


def _key_in(content: Payload) -> str | None:
    key = content.metadata.get("idempotencyKey")
    if key is not None and not isinstance(key, str):
        raise ValidationFailed([{"field": "metadata.idempotencyKey", "message": "Deve ser um texto."}])
    return key


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


def _choose_phone(contact: Recipient, to: str | None) -> tuple[Recipient, str | None]:
    """The contact as this message reaches it, and the phone to keep to where that is not simply the contact's own."""
    if to is None:
        return contact, None
    phones = [value for kind, value in contact.identities if kind == "phone"]
    if to not in phones:
        raise ContactPhoneMismatch
    return (contact, None) if to == phones[0] else (replace(contact, identities=(("phone", to),)), to)
