"""The realtime layer's questions about tickets (leadengine.realtime.gate.Gate)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import write_audit
from leadengine.accounts.sockets import identify, still_valid
from leadengine.realtime.gate import Sees, Standing
from tickets.models import QueueMembership, Ticket
from tickets.policy import viewer_of


class SocketGate:
    """Answers from the database, each question in a scope of its own."""

    identify = staticmethod(identify)
    still_valid = staticmethod(still_valid)

    def viewers(self, tenant_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Sees]:
        with tenant_scope(tenant_id):
            users = list(User.objects.filter(pk__in=user_ids, tenant_id=tenant_id, is_active=True))
            memberships: dict[UUID, list[tuple[UUID, str]]] = {}
            rows = QueueMembership.objects.filter(user_id__in=user_ids)
            for user_id, queue_id, visibility in rows.values_list("user_id", "queue_id", "visibility"):
                memberships.setdefault(user_id, []).append((queue_id, visibility))
        return {user.pk: viewer_of(user, memberships.get(user.pk, [])) for user in users}

    def standings(self, tenant_id: UUID, ticket_ids: Collection[UUID]) -> dict[UUID, Standing]:
        with tenant_scope(tenant_id):
            rows = Ticket.objects.for_tenant(tenant_id).filter(pk__in=ticket_ids)
            return {
                row[0]: Standing(*row[1:])
                for row in rows.values_list("pk", "last_position", "last_event_seq", "queue_id", "assignee_id")
            }

    def last_change(self, tenant_id: UUID) -> datetime | None:
        with tenant_scope(tenant_id):
            newest = Ticket.objects.for_tenant(tenant_id).order_by("-updated_at").values_list("updated_at", flat=True)
            return newest.first()

    def refused(self, tenant_id: UUID | None, user_id: UUID, ticket_id: str) -> None:
        with service_scope("audit of a refused subscription"):
            write_audit(
                tenant_id=tenant_id,
                actor=User.objects.filter(pk=user_id).first(),
                action="socket.refused",
                changes={"ticketId": ticket_id[:60]},
            )
