"""Tickets for service and API tests: what the inbound pipeline would have made, without webhooks."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from uuid import UUID

from leadengine.accounts.models import Tenant, User
from leadengine.accounts.scopes import tenant_scope
from leads.services import Person
from tests.conftest import World
from tickets.models import Ticket
from tickets.services.arrivals import Arrival, record_arrivals

_ids = itertools.count(1)
MARIA = "+5511988887777"


def arrive(
    world: World,
    *texts: str,
    phone: str = MARIA,
    name: str = "Maria",
    at: datetime | None = None,
    tenant: Tenant | None = None,
    direction: str = "INBOUND",
) -> Ticket:
    """Record messages of a contact on its tenant's line; the ticket they are in."""
    tenant = tenant or world.ipe
    line = world.line if tenant == world.ipe else world.foreign_line
    now = at or datetime.now(UTC)
    person = Person((("phone", phone), ("wa_address", phone.removeprefix("+"))), name=name, push_name=name)
    with tenant_scope(tenant.pk):
        recorded = record_arrivals(
            tenant_id=tenant.pk,
            arrivals=[
                Arrival(line.pk, f"D{next(_ids)}", direction, person, "TEXT", text, now, now)  # type: ignore[arg-type]
                for text in texts or ("Oi",)
            ],
            now=now,
        )
        ticket_id = recorded[-1].ticket_id
        assert ticket_id is not None
        return Ticket.objects.get(pk=ticket_id)


def give(ticket: Ticket, user: User | None) -> Ticket:
    """Set the assignee as history would have it."""
    with tenant_scope(ticket.tenant_id):
        status = "ASSIGNED" if user else "OPEN"
        Ticket.objects.filter(pk=ticket.pk).update(assignee=user, status=status)
        return Ticket.objects.get(pk=ticket.pk)


def phone(number: int) -> str:
    """A phone of its own for each number."""
    return f"+55119{number:08d}"


def nobody_id() -> UUID:
    """An id that no row has."""
    return UUID("01890000-0000-7000-8000-000000000000")
