"""Chats by their address, for callers who know neither tickets nor contacts (spec/sessions.md section 7)."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from leadengine.accounts.models import User
from leadengine.errors import DomainError
from leads.services import Person, upsert_contacts
from tickets.models import ReadMarker, Ticket
from tickets.services.lifecycle import mark_read
from tickets.services.outbox import Queued, Wish, queue_to_contact
from tickets.transports import Line
from whatsapp.addresses import GROUP_SERVER, build_address, chat_of, parse_jid
from whatsapp.models import WhatsAppAtendimento, WhatsAppSession
from whatsapp.schemas import Address
from whatsapp.services.atendimento_actions import close_atendimento
from whatsapp.services.outgoing import queue_to_number, read_to
from whatsapp.services.persistence import Scope, persist


class InvalidChat(DomainError):
    """A conversa é inválida: informe um número ou um JID."""

    code = "INVALID_TO"
    status = 400


def read_chat(value: str) -> Address:
    """The address that a caller wrote: a JID, or a number as `read_to` takes it. Raises: InvalidChat, InvalidTo."""
    if "@" not in value:
        return Address(phone=read_to(value))
    address = build_address(parse_jid(value))
    if chat_of(address) is None:
        raise InvalidChat
    return address


def queue_to_chat(*, line: Line, chat: Address, wish: Wish, now: datetime) -> Queued:
    """Accept a message to a chat of a line. Raises: what queue_to_number raises."""
    if chat.phone:
        return queue_to_number(line=line, to=chat.phone, wish=wish, now=now)
    is_group = bool(chat.jid and chat.jid.endswith(f"@{GROUP_SERVER}"))
    people = [Person(tuple(chat.identities()), is_group=is_group)]
    contact = upsert_contacts(tenant_id=line.tenant_id, people=people, now=now)[0]
    target = f"chat:{line.id}:{chat_of(chat)}"
    return queue_to_contact(contact_id=contact.id, line=line, wish=wish, now=now, target=target)


def mark_chat_read(*, session: WhatsAppSession, chat: Address, actor: User, now: datetime) -> int:
    """Move the actor's marker to the end of a chat's open ticket; how many inbound messages that were.

    Runs in the caller's scope and transaction. Raises: NotFound for a ticket that the actor may not see, NotAllowed.
    """
    episode = _find_open(session, chat)
    if episode is None or episode.ticket_id is None:
        return 0
    ticket = Ticket.objects.for_tenant(session.tenant_id).get(pk=episode.ticket_id)
    before = ReadMarker.objects.filter(user=actor, ticket=ticket).values_list("inbound_seen", flat=True).first() or 0
    marker = mark_read(actor=actor, ticket_id=ticket.pk, position=ticket.last_position, now=now)
    return max(0, marker.inbound_seen - before)


def close_chat(
    *, session: WhatsAppSession, chat: Address, actor: User, reason_code: str, now: datetime, scope: Scope
) -> UUID | None:
    """End the open atendimento of a chat and its ticket; its id, None when there is none. One transaction of its own.

    Raises: what close_atendimento raises, PersistenceUnavailable.
    """

    def write() -> UUID | None:
        episode = _find_open(session, chat)
        if episode is None:
            return None
        if episode.ticket_id is not None:
            close_atendimento(atendimento_id=episode.pk, actor=actor, reason_code=reason_code, now=now)
        else:  # a row that was made without a ticket has nothing to follow
            WhatsAppAtendimento.objects.filter(pk=episode.pk).update(
                status=WhatsAppAtendimento.Status.FECHADO, closed_at=now, closed_by=actor.pk
            )
        closed: UUID = episode.pk
        return closed

    return persist("atendimento.close", write, scope=scope)


def _find_open(session: WhatsAppSession, chat: Address) -> WhatsAppAtendimento | None:
    rows = WhatsAppAtendimento.objects.for_tenant(session.tenant_id).filter(
        connection_id=session.connection_id, chat_id=chat_of(chat)
    )
    found: WhatsAppAtendimento | None = (
        rows.exclude(status=WhatsAppAtendimento.Status.FECHADO).order_by("-created_at").first()
    )
    return found
