"""Who sees which ticket: one policy, as a queryset filter and as a pure function, proved equal by test.

Lists, detail, search, exports, counters, socket events and admin use it (spec/tickets-leads.md section 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q, QuerySet

from leadengine.accounts.models import User
from tickets.models import QueueMembership, Ticket

OWN, OWN_UNASSIGNED, QUEUE, ALL = (visibility.value for visibility in QueueMembership.Visibility)


@dataclass(frozen=True, slots=True)
class Viewer:
    """What the policy knows of a person. `unassigned` and `whole` are the queues they see in part or entirely."""

    user_id: UUID
    tenant_id: UUID | None
    is_supervisor: bool
    sees_all: bool
    unassigned: frozenset[UUID] = frozenset()
    whole: frozenset[UUID] = frozenset()

    def sees(self, queue_id: UUID | None, assignee_id: UUID | None) -> bool:
        """Whether a ticket of the viewer's own tenant, with this queue and assignee, is visible."""
        if self.sees_all or assignee_id == self.user_id or queue_id in self.whole:
            return True
        return assignee_id is None and queue_id in self.unassigned


def load_viewer(user: User) -> Viewer:
    """Read a person's rights as they are now, inside a scope of their tenant."""
    if user.is_supervisor or user.is_superuser:
        return viewer_of(user, [])
    return viewer_of(user, QueueMembership.objects.filter(user=user).values_list("queue_id", "visibility"))


def viewer_of(user: User, memberships: Iterable[tuple[UUID, str]]) -> Viewer:
    """The viewer for a person and their (queue, visibility) pairs."""
    if user.is_supervisor or user.is_superuser:
        return Viewer(user.pk, user.tenant_id, True, True)
    queues = list(memberships)
    return Viewer(
        user.pk,
        user.tenant_id,
        False,
        any(visibility == ALL for _, visibility in queues),
        frozenset(queue for queue, visibility in queues if visibility == OWN_UNASSIGNED),
        frozenset(queue for queue, visibility in queues if visibility == QUEUE),
    )


def visible_tickets(viewer: Viewer) -> QuerySet[Ticket]:
    """The tickets of the viewer's tenant that they may see; the same rule as `Viewer.sees`."""
    if viewer.tenant_id is None:  # the platform's superuser: the service scope shows all
        return Ticket.objects.all()
    tickets: QuerySet[Ticket] = Ticket.objects.for_tenant(viewer.tenant_id)
    if viewer.sees_all:
        return tickets
    return tickets.filter(
        Q(assignee_id=viewer.user_id)
        | Q(queue_id__in=viewer.whole)
        | Q(queue_id__in=viewer.unassigned, assignee__isnull=True)
    )
