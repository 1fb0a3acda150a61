"""What the TurboZap routes have in common: their envelope, their names, and how a connection is found by one.

Spec/sessions.md section 7. The services are those of the native API; only the spelling differs.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from pydantic import ConfigDict
from rest_framework import status
from rest_framework.response import Response

from leadengine.accounts.api import Body, ScopedAPIView
from leadengine.accounts.authentication import TokenAuthentication
from leadengine.errors import DomainError
from tickets.services.outbox.refusals import InstanceDisconnected
from whatsapp.api.base import KEY_SENTENCES, SessionAPIView, as_uuid
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.wishes import InstanceNotFound

Status = WhatsAppSession.Status
NAME = r"^[a-zA-Z0-9_-]{1,100}$"
WORDS = {
    Status.DISCONNECTED: "disconnected",
    Status.DUPLICATE: "disconnected",
    Status.LOGGED_OUT: "disconnected",
    Status.CONNECTING: "connecting",
    Status.QRCODE: "qrcode",
    Status.CONNECTED: "connected",
    Status.ERROR: "error",
}
_SENTENCES = KEY_SENTENCES | {InstanceDisconnected: "Instance is not connected to WhatsApp"}


class AmbiguousName(DomainError):
    """Mais de uma conexão tem este nome: use o identificador de uma delas."""

    code = "AMBIGUOUS_NAME"
    status = 409


class NotSupported(DomainError):
    """Esta operação não existe aqui."""

    code = "NOT_SUPPORTED"
    status = 501


class SnakeBody(Body):
    """A body as TurboZap spells it. What we do not know is ignored, an owner's id among it."""

    model_config = ConfigDict(extra="ignore", alias_generator=None, allow_inf_nan=False)


class TurboZapEnvelope(ScopedAPIView):
    """Answers `{success, message?, data?, error?}`. Callers have a key: no cookie, hence no forged requests."""

    authentication_classes = (TokenAuthentication,)

    def handle_exception(self, exc: Exception) -> Response:
        response = super().handle_exception(exc)
        problem = response.data["error"]
        message = _SENTENCES.get(type(exc), problem["message"])
        response.data = {"success": False, "message": message, "error": {**problem, "message": message}}
        return response


@extend_schema(exclude=True)
class TurboZapView(TurboZapEnvelope, SessionAPIView):
    """A route about connections."""

    def find_named(self, name: str) -> WhatsAppSession:
        """A visible connection by its connection_id, else by its name, else by the id that making it answered.

        Raises: InstanceNotFound, AmbiguousName.
        """
        with self.scope():
            rows = self.visible().select_related("owner") if "\0" not in name else WhatsAppSession.objects.none()
            found: list[WhatsAppSession] = list(rows.filter(connection_id=name)) or list(rows.filter(session_name=name))
            if not found and (own := as_uuid(name)) is not None:
                found = list(rows.filter(pk=own))
        if not found:
            raise InstanceNotFound
        if len(found) > 1:
            raise AmbiguousName(connectionIds=sorted(session.connection_id for session in found))
        return found[0]


@extend_schema(exclude=True)
class NotSupportedView(TurboZapEnvelope):
    """What TurboZap can and we cannot, for callers that we know."""

    def serves_one_session(self) -> bool:
        return True

    def http_method_not_allowed(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        raise NotSupported


def said(data: Any = None, *, message: str = "", code: int = status.HTTP_200_OK) -> Response:
    """A good answer."""
    parts = {"success": True, "message": message or None, "data": data}
    return Response({name: value for name, value in parts.items() if value is not None}, status=code)
