"""Doors for callers who know an instance or a contact, and no ticket (spec/outbound.md section 4)."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, TypeVar
from uuid import UUID

from django.utils import timezone
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import ScopedAPIView, describe
from leadengine.accounts.scopes import tenant_scope
from leadengine.errors import NotFound, ValidationFailed
from leads.models import Contact
from tickets.api.messages import AcceptedShape, SendBody, SendView, accepted
from tickets.services.opening import QueueMissing
from tickets.services.outbox import Queued
from tickets.transports import Line
from whatsapp.adapters import get_adapter
from whatsapp.services.outgoing import find_last_line, queue_to_known, queue_to_number
from whatsapp.services.queue_missing import report_queue_missing


class ToNumberBody(SendBody):
    to: str


Body = TypeVar("Body", bound=ToNumberBody)


class ToContactBody(SendBody):
    to: str | None = None


class TellsQueueMissing(ScopedAPIView):
    """A door that may have to open a ticket: without an active queue it tells the supervisors, too (D22)."""

    permissions: ClassVar = {"POST": "messages:send"}
    used: Line | None = None

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, QueueMissing) and self.used is not None:
            # The request's transaction was rolled back; this news is not part of it.
            with tenant_scope(self.used.tenant_id):
                report_queue_missing(
                    tenant_id=self.used.tenant_id, session_id=self.used.id, now=timezone.now()
                )  # fmt: skip
        return super().handle_exception(exc)


class NumberDoor(TellsQueueMissing, SendView):
    """A door of one instance, to a number."""

    def serves_one_session(self) -> bool:
        """`line` gives a key of one connection no other."""
        return True

    def accept(self, model: type[Body], instance_id: str, now: datetime) -> Queued:
        """Read the body and accept what it says. Raises: NotConfigured, NotFound, ValidationFailed and the refusals."""
        get_adapter().require_configured()
        self.used = line = self.line(instance_id)
        body, wish = self.read_wish(model)
        if wish.session is not None and wish.session.id != line.id:
            raise ValidationFailed([{"field": "instanceId", "message": "Não é a conexão deste endereço."}])
        try:
            return queue_to_number(line=line, to=body.to, wish=wish, now=now)
        except ValidationFailed as refused:
            raise body.named_here(refused) from refused


class InstanceDoor(NumberDoor):
    @describe(AcceptedShape, body=ToNumberBody, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, instance_id: str) -> Response:
        """Accept a message to a number, into its open ticket on this instance or a new one."""
        return accepted(self.accept(ToNumberBody, instance_id, timezone.now()))


class ContactDoor(TellsQueueMissing, SendView):
    @describe(AcceptedShape, body=ToContactBody, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, contact_id: UUID) -> Response:
        """Accept a message to a contact, into their open ticket on the instance or a new one."""
        get_adapter().require_configured()
        if not self.of_tenant(Contact.objects.all()).filter(pk=contact_id).exists():
            raise NotFound("Contato não encontrado.")
        body, wish = self.read_wish(ToContactBody)
        self.used = line = wish.session or find_last_line(contact_id=contact_id)
        return accepted(queue_to_known(contact_id=contact_id, to=body.to, line=line, wish=wish, now=timezone.now()))
