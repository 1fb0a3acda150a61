"""Accepting a message: the row is the outbox (spec/outbound.md sections 4 to 6). No door makes an outgoing call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet

from leadengine.accounts.models import User
from leadengine.errors import NotFound
from leadengine.ids import uuid7
from leads.services import lock_current
from tickets.models import Message, Ticket
from tickets.models.tickets import LIVE
from tickets.payloads import parse_payload
from tickets.policy import load_viewer
from tickets.services.announce import announce_ticket
from tickets.services.lifecycle import reopen_ticket
from tickets.services.opening import QueueMissing, Wanted, open_tickets
from tickets.services.outbox.admission import admit, put_off
from tickets.services.outbox.appending import append_row, make_row
from tickets.services.outbox.attaching import media_of, take_file
from tickets.services.outbox.checking import Wish, check_address, check_references, check_wish
from tickets.services.outbox.keying import digest_of, find_replay, keys_of, one_of
from tickets.services.outbox.recipients import load_recipients
from tickets.services.outbox.refusals import ContactPhoneMismatch, IdempotencyKeyRequired, InstanceRequired
from tickets.services.outbox.scheduling import check_time
from tickets.services.state import TicketState, lock_tickets
from tickets.transports import Line, Transport, get_transport

CHANNEL = "WHATSAPP"


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
    wish = Wish(
        author=author, payload=payload, source=source, idempotency_key=idempotency_key,
        expected_last_message_id=expected_last_message_id, force=force, when_unavailable=when_unavailable,
        external_reference=external_reference, session=session, scheduled_at=scheduled_at,
        cancel_if_customer_replies=cancel_if_customer_replies,
    )  # fmt: skip
    return queue_to_ticket(ticket_id=ticket_id, wish=wish, reopen=reopen, now=now)


def queue_to_ticket(*, ticket_id: UUID, wish: Wish, reopen: bool = False, now: datetime) -> Queued:
    """Accept a wish into a ticket, as queue_message does."""
    transport = get_transport(CHANNEL)
    transport.require_configured()
    ticket = find_ticket(ticket_id=ticket_id, author=wish.author)
    if wish.session is not None and wish.session.tenant_id != ticket.tenant_id:
        raise NotFound

    def lock() -> TicketState:
        return lock_tickets(tenant_id=ticket.tenant_id, ids=[ticket_id])[ticket_id]

    def find() -> _Found:
        state = lock()
        session_id = wish.session.id if wish.session else state.session_id
        return _Found(state, line_of_session(session_id=session_id), state.contact_id)

    def enter(found: _Found) -> TicketState:
        assert found.state is not None  # noqa: S101 - narrows the type
        if not reopen or wish.author is None or found.state.status in LIVE:
            return found.state
        reopen_ticket(actor=wish.author, ticket_id=ticket_id, now=now)
        return lock()

    contacts = Ticket.objects.for_tenant(ticket.tenant_id).filter(pk=ticket_id).values("contact_id")
    return _accept(transport, wish, _Place(ticket.tenant_id, f"ticket:{ticket_id}", contacts, find, enter), now)


def queue_to_contact(*, contact_id: UUID, line: Line, wish: Wish, now: datetime, target: str = "") -> Queued:
    """Accept a message to a contact on a line: into its open ticket there, or into one that is opened for it.

    It leaves through the last line that replaced this one, if one did, whatever ticket it goes into.
    A new ticket goes to the line's default queue, assigned to the author when a person sends. `target` names what the
    caller addressed, for the idempotency hash; a merged contact is the one it is part of. Raises: as queue_message,
    ContactPhoneMismatch for a `wish.to` that is not theirs, and QueueMissing.
    """
    transport = get_transport(CHANNEL)
    transport.require_configured()
    current = lock_current(tenant_id=line.tenant_id, contact_id=contact_id)
    if current is None:
        raise NotFound

    newer = line if line.replaced_by is None else line_of_session(session_id=line.id)

    def find() -> _Found:
        state = _lock_open(line, current, wish)
        if state is None and newer.id != line.id:
            state = _lock_open(newer, current, wish)
        return _Found(state, newer, current)

    def enter(found: _Found) -> TicketState:
        return found.state or _open_ticket(newer, current, wish, now)

    place = _Place(line.tenant_id, target or f"contact:{contact_id}", [current], find, enter)
    return _accept(transport, wish, place, now)


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


# --- Steps, in the order they are called --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """The locked ticket, None where one is to be opened; the line to use and whom it reaches."""

    state: TicketState | None
    line: Line
    contact_id: UUID


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a message goes. `contacts`: whose messages it may refer to. `enter` opens or reopens what `find` found."""

    tenant_id: UUID
    target: str
    contacts: Sequence[UUID] | QuerySet[Ticket, Any]
    find: Callable[[], _Found]
    enter: Callable[[_Found], TicketState]


def _accept(transport: Transport, wish: Wish, place: _Place, now: datetime) -> Queued:
    """What is wrong with the call is told first, then what the state of things does not allow (section 6)."""
    tenant_id = place.tenant_id
    content = parse_payload(wish.payload)
    keys = keys_of(wish, content)
    digest = digest_of(place.target, wish)

    def replay() -> Queued | None:
        earlier = find_replay(tenant_id=tenant_id, key=one_of(keys), digest=digest) if len(keys) == 1 else None
        return Queued(earlier, replayed=True) if earlier is not None else None

    if (earlier := replay()) is not None:
        return earlier
    if wish.scheduled_at is not None:
        check_time(wish.scheduled_at, now)  # a replay may come when that time is near, or past
    seen = check_references(wish, content, tenant_id=tenant_id, contacts=place.contacts)
    found = place.find()
    # Under the lock once more: of two calls with one key at once the later one is a replay, whatever it would refuse.
    if (earlier := replay()) is not None:
        return earlier
    line = found.line
    contact = load_recipients(tenant_id=tenant_id, ids=[found.contact_id])[found.contact_id]
    reached = contact if wish.to is None else contact.at(wish.to)
    file = take_file(transport, content, tenant_id=tenant_id, author=wish.author, line=line, now=now)
    check_address(transport, line, reached)
    key = one_of(keys)
    if key is None and settings.OUTBOUND_REQUIRE_IDEMPOTENCY_KEY:
        raise IdempotencyKeyRequired
    if wish.to is not None and not contact.has_phone(wish.to):
        raise ContactPhoneMismatch
    state = place.enter(found)
    check_wish(transport, wish, state, line, reached, seen)
    wait = admit(wish=wish, line=line, ticket_id=state.id, now=now)
    message = make_row(wish, tenant_id=tenant_id, state=state, line=line, content=content, now=now)
    if wait is not None:
        put_off(message, wait)
    message.idempotency_key, message.request_hash = key or uuid7().hex, digest
    media = media_of(message, content, file)
    if not append_row(state=state, message=message, media=media, contact=contact, now=now):
        twin = replay()
        assert twin is not None  # noqa: S101 - the constraint says that the row exists
        return twin
    if state.entries:
        announce_ticket(tenant_id=tenant_id, state=state, changed=["status", "assigneeId"], now=now)
        transport.ticket_changed(tenant_id=tenant_id, ticket_id=state.id, now=now)
    return Queued(message, replayed=False)


def _lock_open(line: Line, contact_id: UUID, wish: Wish) -> TicketState | None:
    """Lock the contact's open ticket on the line. Raises: NotFound for one that the author may not see."""
    rows = Ticket.objects.for_tenant(line.tenant_id).filter(contact_id=contact_id, session_id=line.id, status__in=LIVE)
    for ticket_id in rows.values_list("id", flat=True):
        state = lock_tickets(tenant_id=line.tenant_id, ids=[ticket_id])[ticket_id]
        if state.status in LIVE:
            if wish.author and not load_viewer(wish.author).sees(state.queue_id, state.assignee_id):
                raise NotFound
            return state
    return None


def _open_ticket(line: Line, contact_id: UUID, wish: Wish, now: datetime) -> TicketState:
    """Open a ticket for the contact on the line; a person who writes first takes it. Raises: QueueMissing."""
    wanted = [Wanted((contact_id, line.id), now, True, line.default_queue_id)]
    opened = open_tickets(tenant_id=line.tenant_id, wanted=wanted, now=now)
    if not opened:
        raise QueueMissing
    state = opened[contact_id, line.id]
    if state.is_new and wish.author is not None and wish.source == Message.Source.AGENT:
        state.assignee_id, state.status = wish.author.pk, "ASSIGNED"
        state.note_entry("ASSIGNED", at=now, actor_id=wish.author.pk, to=wish.author.name)
    return state
