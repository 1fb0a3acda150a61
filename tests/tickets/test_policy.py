"""One visibility policy: the queryset filter and the pure function agree."""

from __future__ import annotations

import random
from uuid import UUID

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, tenant_scope
from tests.conftest import World
from tests.tickets.desk import arrive, phone
from tickets.models import Queue, QueueMembership, Ticket
from tickets.policy import load_viewer, visible_tickets

VISIBILITIES = [None, *QueueMembership.Visibility.values]


def test_filter_and_function_agree_for_a_thousand_people(world: World) -> None:
    choice = random.Random(42)
    with service_scope("test"):
        queues = [world.queue, *(Queue.objects.create(tenant=world.ipe, name=f"Q{n}") for n in range(3))]
        people = User.objects.bulk_create(
            User(tenant=world.ipe, email=f"p{n}@example.test", name=f"P{n}", role=choice.choices(
                ["AGENT", "SUPERVISOR", "ADMIN"], [90, 5, 5])[0], password="!")
            for n in range(1000)
        )  # fmt: skip
        QueueMembership.objects.bulk_create(
            QueueMembership(tenant=world.ipe, user=person, queue=queue, visibility=visibility)
            for person in people
            for queue in queues
            if (visibility := choice.choice(VISIBILITIES)) is not None
        )
    tickets = [arrive(world, phone=phone(n)) for n in range(60)]
    foreign = arrive(world, tenant=world.cedro)
    with tenant_scope(world.ipe.pk):
        for ticket in tickets:
            # Few assignees, so that "assigned to me" happens too.
            assignee = choice.choice([None, None, *people[:40]])
            Ticket.objects.filter(pk=ticket.pk).update(
                queue=choice.choice(queues), assignee=assignee, status="ASSIGNED" if assignee else "OPEN"
            )
        facts = list(Ticket.objects.values_list("pk", "queue_id", "assignee_id"))
        assert len(facts) == 60
        sizes = set()
        for person in people:
            viewer = load_viewer(person)
            seen: set[UUID] = set(visible_tickets(viewer).values_list("pk", flat=True))
            assert seen == {pk for pk, queue, assignee in facts if viewer.sees(queue, assignee)}, person.role
            assert foreign.pk not in seen
            sizes.add(len(seen))
    assert min(sizes) == 0
    assert max(sizes) == 60
    assert len(sizes) > 20
