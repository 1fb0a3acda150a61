"""Queues, who works in them, and close reasons: what an administrator sets up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Model

from leadengine.accounts.models import User
from leadengine.accounts.services import save_audited, save_user, write_audit
from leadengine.errors import DomainError
from tickets.models import CloseReason, Queue, QueueMembership, Ticket
from tickets.services.lifecycle import NotAllowed, unassign_ticket
from tickets.transports import get_transport

_QUEUE_FIELDS = (
    "name", "description", "colour", "is_active", "order_index", "is_default", "reopen_window_minutes",
    "response_target_minutes", "require_close_reason",
)  # fmt: skip
_REASON_FIELDS = ("code", "label", "outcome", "allows_reopen", "requires_note", "is_active", "order_index")


class UnableToSaveQueue(DomainError):
    """Já existe uma fila, um motivo ou um membro assim."""

    code = "NAME_TAKEN"
    status = 409


def save_queue(*, actor: User, queue: Queue, now: datetime) -> None:
    """Create or change a queue. One that takes tickets again releases what waited for a queue (D22).

    A new default takes the place of the old one. Raises: UnableToSaveQueue, NotAllowed.
    """
    _require(actor, "queues:write")
    if queue.is_default:
        Queue.objects.for_tenant(queue.tenant_id).filter(is_default=True).exclude(pk=queue.pk).update(is_default=False)
    changes = _save(actor, queue, _QUEUE_FIELDS, "queue.saved")
    if "is_active" in changes and queue.is_active:
        for channel in settings.TICKETS_TRANSPORTS:
            get_transport(channel).queue_available(tenant_id=queue.tenant_id, now=now)


def save_membership(*, actor: User, membership: QueueMembership) -> None:
    """Put a person into a queue, or change how much of it they see. Raises: UnableToSaveQueue, NotAllowed."""
    _require(actor, "queues:write")
    _save(actor, membership, ("user_id", "queue_id", "visibility"), "membership.saved")


def remove_membership(*, actor: User, membership: QueueMembership) -> None:
    """Take a person out of a queue; the tickets they hold stay theirs. Raises: NotAllowed."""
    _require(actor, "queues:write")
    changes = {"user_id": [str(membership.user_id), None], "queue_id": [str(membership.queue_id), None]}
    write_audit(
        tenant_id=membership.tenant_id, actor=actor, action="membership.removed", target=membership, changes=changes
    )
    membership.delete()


def save_close_reason(*, actor: User, reason: CloseReason) -> None:
    """Create or change why a ticket may end. Raises: UnableToSaveQueue, NotAllowed."""
    _require(actor, "queues:write")
    _save(actor, reason, _REASON_FIELDS, "close_reason.saved")


def save_member(*, actor: User, user: User, now: datetime) -> None:
    """Create or change a person; the open tickets of one who is deactivated return to their queues.

    Raises: UnableToChangeUser (leadengine.accounts.services.save_user).
    """
    changes = save_user(actor=actor, user=user)
    if "is_active" in changes and not user.is_active and user.tenant_id:
        held = Ticket.objects.for_tenant(user.tenant_id).filter(assignee=user, status=Ticket.Status.ASSIGNED)
        for ticket_id in held.order_by("pk").values_list("pk", flat=True):
            unassign_ticket(actor=actor, ticket_id=ticket_id, now=now)


def _require(actor: User, permission: str) -> None:
    if not actor.may(permission):
        raise NotAllowed


def _save(actor: User, row: Model, fields: Sequence[str], action: str) -> dict[str, list[Any]]:
    try:
        with transaction.atomic():
            return save_audited(actor=actor, row=row, fields=fields, action=action)
    except IntegrityError as error:
        raise UnableToSaveQueue from error
