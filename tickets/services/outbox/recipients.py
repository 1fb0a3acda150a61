"""Whom a message goes to: a contact and the addresses that identify it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from django.db import connection

from leadengine.sql import loads
from leads.services.phones import other_form
from tickets.transports import Identity


@dataclass(frozen=True, slots=True)
class Recipient:
    """A contact as a send needs it. `identities` begin with the primary ones."""

    id: UUID
    name: str
    is_group: bool
    is_blocked: bool
    identities: tuple[Identity, ...]

    def has_phone(self, phone: str) -> bool:
        """Whether an E.164 phone is theirs, in either form of a Brazilian mobile."""
        return any(kind == "phone" and value in _forms(phone) for kind, value in self.identities)

    def has_other_phone(self, phone: str) -> bool:
        """Whether a phone besides this one is theirs."""
        return any(kind == "phone" and value not in _forms(phone) for kind, value in self.identities)

    def at(self, phone: str) -> Recipient:
        """The same contact, reached at this phone and nowhere else: of its addresses only those of that number."""
        forms = {form.removeprefix("+") for form in _forms(phone)}
        own = tuple(one for one in self.identities if one[0] == "wa_address" and one[1] in forms)
        return replace(self, identities=(("phone", phone), *own))


def load_recipients(*, tenant_id: UUID, ids: Iterable[UUID]) -> dict[UUID, Recipient]:
    """Contacts of a tenant by id; those that do not exist are left out."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT c.id, c.name, c.kind = 'GROUP', c.is_blocked, (
                   SELECT json_agg(json_build_array(i.kind, i.value) ORDER BY i.is_primary DESC, i.id)
                   FROM leads_contactidentity i WHERE i.contact_id = c.id)
               FROM leads_contact c WHERE c.tenant_id = %s AND c.id = ANY(%s)""",
            [tenant_id, list(set(ids))],
        )
        return {
            row[0]: Recipient(
                row[0], row[1], row[2], row[3], tuple((kind, value) for kind, value in loads(row[4]) or ())
            )
            for row in cursor.fetchall()
        }


def _forms(phone: str) -> set[str]:
    other = other_form(phone)
    return {phone, other} if other else {phone}
