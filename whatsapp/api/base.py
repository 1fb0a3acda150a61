"""What the three API surfaces of connections have in common: who asks, and which connections they may see."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError
from django.db.models import Q, QuerySet
from rest_framework import exceptions
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import ScopedAPIView
from leadengine.accounts.permissions import Role
from whatsapp.adapters import get_adapter
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import PersistenceUnavailable
from whatsapp.services.sessions.acting import Outcome, carry_out
from whatsapp.services.sessions.wishes import Asker, InstanceNotFound

log = structlog.get_logger(__name__)
# Sentences that programs compare which were written for the services whose routes we have, too.
KEY_SENTENCES: dict[type[Exception], str] = {
    exceptions.NotAuthenticated: "API key is required",
    exceptions.AuthenticationFailed: "Invalid API key",
}


class SessionAPIView(ScopedAPIView):
    """A route about connections. Its handler runs outside any transaction, since it may call the broker.

    Not configured is 503 for every method (D5), and so is a database that is away, whatever was being read. A
    connection of another owner or tenant is 404 (D26).
    """

    scoped = False
    source: ClassVar[str] = "api"

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Raises: NotConfigured, after who is asking is known."""
        super().initial(request, *args, **kwargs)
        get_adapter().require_configured()

    def check_permissions(self, request: Request) -> None:
        """403 also for a key whose list of rights lacks what connections ask for, where the route names nothing.

        A key of one connection has been let in for that one.
        """
        super().check_permissions(request)
        key = self.api_key
        method = "GET" if request.method == "HEAD" else request.method
        if key is None or not key.scopes or key.session_id is not None or method in self.permissions:
            return
        if ("sessions:read" if method in SAFE_METHODS else "settings:write") not in key.scopes:
            raise exceptions.PermissionDenied

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, (OperationalError, InterfaceError)):
            log.warning("database_away", reason=type(exc.__cause__ or exc).__name__)
            exc = PersistenceUnavailable()
        return super().handle_exception(exc)

    @property
    def asker(self) -> Asker:
        """The caller, for wishes and the history."""
        return Asker(self.user, self.scope, self.source)

    def serves_one_session(self) -> bool:
        """A key of one connection may read lists, which hold that one only, and call what names a connection."""
        return bool(self.kwargs) or self.request.method in SAFE_METHODS

    def visible(self) -> QuerySet[WhatsAppSession]:
        """The caller's own connections; supervisors see all of the tenant. To be read inside `self.scope()`.

        A key of one connection sees that one.
        """
        rows: QuerySet[WhatsAppSession] = self.of_tenant(WhatsAppSession.objects.filter(deleted_at__isnull=True))
        if self.only_session is not None:
            rows = rows.filter(pk=self.only_session)
        return rows if self.may("sessions:read") else rows.filter(owner=self.user)

    def find(self, word: str) -> WhatsAppSession:
        """A visible connection by our id, its connection_id or the broker's. Raises: InstanceNotFound."""
        own = as_uuid(word)
        same = Q(connection_id=word) | Q(broker_instance_id=word)
        if own is not None:
            same |= Q(pk=own)
        with self.scope():
            found = list(self.visible().filter(same).select_related("owner")) if "\0" not in word else []
        session = min(found, key=lambda one: (one.pk != own, one.connection_id != word), default=None)
        if session is None:
            raise InstanceNotFound
        return session

    @property
    def is_admin(self) -> bool:
        """Whether the caller administers the tenant, or the platform."""
        return self.user.role == Role.ADMIN or self.user.is_superuser

    def require_own(self, session: WhatsAppSession) -> None:
        """What ends a connection for good is for its owner and for admins. Raises: PermissionDenied."""
        if session.owner_id != self.user.pk and not self.is_admin:
            raise exceptions.PermissionDenied

    def carry_out(self, session: WhatsAppSession) -> Outcome:
        """Do at the broker what was just wished, as far as it answers in time."""
        return carry_out(session=session, asker=self.asker)


def as_uuid(word: str) -> UUID | None:
    """The UUID that a word is."""
    try:
        return UUID(word)
    except ValueError:
        return None
