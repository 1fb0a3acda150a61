"""Messages to a number or a contact, for callers who know no ticket (spec/outbound.md section 4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from leadengine.errors import DomainError
from leads.services import Person, find_current, upsert_contacts
from tickets.models import Ticket
from tickets.services.outbox import Queued, Wish, line_of_session, queue_to_contact
from tickets.transports import Line
from whatsapp.addresses import canonical_phone

_BLANKS = str.maketrans("", "", " \t\u00a0-.()")


class InvalidTo(DomainError):
    """O número é inválido. Use +55 DDD número, ou + e o código do país."""

    code = "INVALID_TO"
    status = 400


def read_to(value: str) -> str:
    """The phone, E.164, that a caller wrote: with `+` as it is, 10 or 11 digits as Brazilian, 12 or 13 with 55.

    A foreign number is never turned into a Brazilian one. Raises: InvalidTo.
    """
    text = value.translate(_BLANKS)
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidTo
    if not text.startswith("+"):
        if len(digits) in {10, 11}:
            digits = f"55{digits}"
        elif not (len(digits) in {12, 13} and digits.startswith("55")):
            raise InvalidTo
    phone = canonical_phone(digits)
    if phone is None:
        raise InvalidTo
    return phone


def queue_to_number(*, line: Line, to: str, wish: Wish, now: datetime) -> Queued:
    """Accept a message to a number on a line; its contact is found by identity or created.

    Raises: InvalidTo, and what queue_to_contact raises.
    """
    phone = read_to(to)
    people = [Person((("phone", phone),))]
    contact = upsert_contacts(tenant_id=line.tenant_id, people=people, now=now)[0]
    wish = replace(wish, to=phone)
    return queue_to_contact(contact_id=contact.id, line=line, wish=wish, now=now, target=f"number:{line.id}:{phone}")


def queue_to_known(*, contact_id: UUID, to: str | None, line: Line, wish: Wish, now: datetime) -> Queued:
    """Accept a message to a contact on a line, to the phone `to` where they have several.

    Raises: InvalidTo, ContactPhoneMismatch for a phone that is not theirs, and what queue_to_contact raises.
    """
    wish = replace(wish, to=None if to is None else read_to(to))
    target = f"contact:{contact_id}:{wish.to}"
    return queue_to_contact(contact_id=contact_id, line=line, wish=wish, now=now, target=target)


def find_last_line(*, contact_id: UUID) -> Line:
    """The line of a contact's latest ticket, or the one that replaced it. Raises: InstanceRequired."""
    rows = Ticket.objects.filter(contact_id=_current(contact_id), session_id__isnull=False).order_by("-number")
    return line_of_session(session_id=rows.values_list("session_id", flat=True).first())


def _current(contact_id: UUID) -> UUID:
    """Callers may know a contact by an id from before it was merged."""
    return find_current(ids=[contact_id]).get(contact_id, contact_id)
