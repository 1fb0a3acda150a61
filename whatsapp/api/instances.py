"""REST of connections, read from the database (spec/sessions.md section 6)."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils import timezone
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, ScopedAPIView, answer, describe
from leadengine.accounts.scopes import tenant_scope
from leadengine.errors import DomainError
from whatsapp.adapters import get_adapter
from whatsapp.models import WhatsAppSession
from whatsapp.serializers import InstanceShape, LineShape, instance_json, line_json

Status = Literal["disconnected", "connecting", "qrcode", "connected", "error", "duplicate", "logged_out"]


class InstanceNotFound(DomainError):
    """Conexão não encontrada."""

    code = "INSTANCE_NOT_FOUND"
    status = 404


class InstanceQuery(Query):
    """`q` finds a part of the name."""

    status: tuple[Status, ...] = ()
    owner_id: UUID | None = None
    q: str | None = Field(None, max_length=80)
    fields: Literal["basic", "full"] = "full"


class InstanceAPIView(ScopedAPIView):
    def sessions(self) -> QuerySet[WhatsAppSession]:
        """The caller's own connections; supervisors see all of the tenant."""
        sessions: QuerySet[WhatsAppSession] = self.of_tenant(WhatsAppSession.objects.filter(deleted_at__isnull=True))
        return sessions if self.may("sessions:read") else sessions.filter(owner=self.user)


class InstanceListView(InstanceAPIView):
    @describe(InstanceShape, many=True, query=InstanceQuery)
    def get(self, request: Request) -> Response:
        """The caller's own connections; supervisors see all of the tenant."""
        get_adapter().require_configured()
        query = self.read_query(InstanceQuery)
        given = {"status__in": query.status, "owner_id": query.owner_id, "session_name__icontains": query.q}
        sessions = self.sessions().filter(**{name: value for name, value in given.items() if value})
        now, full = timezone.now(), query.fields == "full"
        return self.answer_page(
            sessions, query, lambda session: instance_json(session, full=full, now=now), keys=("session_name", "id")
        )


class InstanceView(InstanceAPIView):
    @describe(InstanceShape)
    def get(self, request: Request, instance_id: str) -> Response:
        """One connection, by our id, its connection_id or the broker's id."""
        get_adapter().require_configured()
        self.read_query(Body)
        same = Q(connection_id=instance_id) | Q(broker_instance_id=instance_id)
        if (own := _uuid(instance_id)) is not None:
            same |= Q(pk=own)
        found = self.sessions().filter(same) if "\0" not in instance_id else []
        session = min(found, key=lambda one: (one.pk != own, one.connection_id != instance_id), default=None)
        if session is None:
            raise InstanceNotFound
        return answer(instance_json(session, full=True, now=timezone.now()))


class LineListView(ScopedAPIView):
    @describe(LineShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """The lines of the tenant, whoever owns them, as far as an agent must know them."""
        get_adapter().require_configured()
        query = self.read_query(Query)
        sessions = self.of_tenant(WhatsAppSession.objects.filter(deleted_at__isnull=True))
        if self.tenant_id is None:
            return self.answer_page(sessions, query, line_json, keys=("session_name", "id"))
        with tenant_scope(self.tenant_id):
            return self.answer_page(sessions, query, line_json, keys=("session_name", "id"))


def _uuid(word: str) -> UUID | None:
    try:
        return UUID(word)
    except ValueError:
        return None
