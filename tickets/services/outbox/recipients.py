"""Whom a message goes to: a contact and the addresses that identify it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db import connection

from leadengine.sql import loads
from tickets.transports import Identity


@dataclass(frozen=True, slots=True)
class Recipient:
    """A contact as a send needs it. `identities` begin with the primary ones."""

    id: UUID
    name: str
    is_group: bool
    is_blocked: bool
    identities: tuple[Identity, ...]


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
