"""/api/baileys-simple: connections as clients of that service know them, over the same services (section 7)."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine import health
from leadengine.accounts.api import ScopedAPIView
from leadengine.accounts.api.schema import Refused, Shape
from leadengine.errors import ValidationFailed
from tickets.services.shapes import iso
from whatsapp.api.baileys_base import BaileysView, SimpleBody, describe_simple, said
from whatsapp.api.instances_actions import CountShape, code_of, connect, disconnect
from whatsapp.api.instances_reading import picture
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.acting import Outcome, renew_qr
from whatsapp.services.sessions.looking import load_session
from whatsapp.services.sessions.qr import QrShown, read_qr, shown_qr
from whatsapp.services.sessions.reconnecting import reconnect_all
from whatsapp.services.sessions.removing import remove_session
from whatsapp.services.sessions.wishes import (
    NAME_MAX,
    Created,
    InstanceAlreadyExists,
    NewSession,
    create_session,
)

TYPE = "whatsapp_baileys"
_TRIES = 5
_Status = WhatsAppSession.Status
# Their word for each of our states.
STATES = {
    _Status.CONNECTED: "connected",
    _Status.CONNECTING: "connecting",
    _Status.QRCODE: "connecting",
}


class SimpleHealthShape(Shape):
    """`connections` counts those that are open now; `status` is healthy or degraded."""

    success: bool
    status: str
    timestamp: datetime
    uptime: float
    connections: int
    version: str


class SimpleConnectionShape(Shape):
    id: str
    name: str
    type: str
    connection_state: str
    is_connected: bool
    phone_number: str | None
    whatsapp_id: str | None
    whatsapp_info: dict[str, Any] | None
    qr_code: str | None
    created_at: datetime | None
    updated_at: datetime | None
    connected_at: datetime | None
    owner_id: UUID = Field(alias="owner_id")


class SimpleNewConnectionShape(Shape):
    """`pending` while the broker has not been reached; the connection is there all the same."""

    connection_id: str
    name: str
    type: str
    status: str
    qr_code: str | None
    pending: bool


class SimpleQrShape(Shape):
    """`qrCode` is a PNG data URL; null when there is nothing to scan."""

    qr_code: str | None
    connection_state: str
    is_connected: bool
    qr_expires_at: datetime | None
    qr_version: int


class NewConnectionBody(SimpleBody):
    """All of it may be left out."""

    name: str | None = Field(None, max_length=NAME_MAX)
    auto_init: bool = True


class HealthView(ScopedAPIView):
    """Anybody may ask: no id, name, address or text of an error stands in it."""

    authentication_classes = ()
    permission_classes = ()
    scoped = False

    @extend_schema(responses={"default": Refused, 200: SimpleHealthShape}, auth=[])
    def get(self, request: Request) -> Response:
        """Whether it works, and how many connections are open."""
        report = health.examine()
        figures = report.blocks.get("whatsapp", {}).get("runtime", {}).get("metrics", {})
        return Response(
            {
                "success": True,
                "status": "healthy" if report.status == "ok" else "degraded",
                "timestamp": iso(timezone.now()),
                "uptime": health.seconds_up(),
                "connections": figures.get("sessionsConnected") or 0,
                "version": health.VERSION,
            }
        )


class ConnectionListView(BaileysView):
    @extend_schema(parameters=[OpenApiParameter("status", str)])
    @describe_simple(SimpleConnectionShape, many=True)
    def get(self, request: Request) -> Response:
        """All connections that the caller sees, not only connected ones; `status` in their words or ours."""
        word = request.query_params.get("status", "").strip().lower()
        now = timezone.now()
        with self.scope():
            rows = _with_state(self.visible(), word) if word else self.visible()
            found = list(rows.order_by("created_at", "id"))
        return said([connection_json(session, now) for session in found])

    @describe_simple(SimpleNewConnectionShape, body=NewConnectionBody, code=status.HTTP_201_CREATED)
    def post(self, request: Request) -> Response:
        """Make a connection of the caller's; the body may be absent."""
        created = self._create(self.read_body(NewConnectionBody))
        outcome = Outcome(created.session, pending=False)
        if created.session.pending_wish:
            outcome = self.carry_out(created.session)
        session = outcome.session
        data = {
            "connectionId": session.connection_id,
            "name": session.session_name,
            "type": TYPE,
            "status": state_of(session),
            "qrCode": shown_qr(session, timezone.now()).picture,
            "pending": outcome.pending,
        }
        return said(data, code=status.HTTP_201_CREATED)

    def _create(self, body: NewConnectionBody) -> Created:
        """Ids are times, so that two calls of one millisecond want the same: the second takes the next one."""
        owner = self.user
        if owner.tenant_id is None:
            raise ValidationFailed([{"field": "owner", "message": "Quem não é de uma empresa não tem conexões."}])
        given = (body.name or "").strip()
        begun = int(time.time() * 1000)
        for number in range(_TRIES):
            connection_id = f"connection_{begun + number}"
            wish = NewSession(
                tenant_id=owner.tenant_id, owner=owner, name=given or f"Conexão {connection_id}",
                connection_id=connection_id, auto_connect=body.auto_init, exempt=owner.is_superuser,
            )  # fmt: skip
            try:
                return create_session(wish=wish, asker=self.asker, now=timezone.now())
            except InstanceAlreadyExists:
                if number == _TRIES - 1 or (given and self._has(given)):
                    raise
        raise AssertionError("the last try raises")

    def _has(self, name: str) -> bool:
        with self.scope():
            return self.visible().filter(owner=self.user, session_name__iexact=name).exists()


class ConnectionView(BaileysView):
    @describe_simple(SimpleConnectionShape, message=True)
    def delete(self, request: Request, connection_id: str) -> Response:
        """Take it out of use, here and at the broker. For its owner and admins."""
        session = self.find(connection_id)
        self.require_own(session)
        deleted, at_broker = remove_session(session=session, asker=self.asker, now=timezone.now())
        return _done(Outcome(deleted, at_broker == "pending"), "Conexão removida.")


class InfoView(BaileysView):
    @describe_simple(SimpleConnectionShape)
    def get(self, request: Request, connection_id: str) -> Response:
        """One connection."""
        return said(connection_json(self.find(connection_id), timezone.now()))


class QrView(BaileysView):
    @describe_simple(SimpleQrShape)
    def get(self, request: Request, connection_id: str) -> Response:
        """What may be scanned now. It starts a connection that is wanted and stopped; without the broker the database
        answers."""
        session = start_wanted(self, self.find(connection_id))
        shown = read_qr(session_id=session.pk, tenant_id=session.tenant_id)
        return said(_qr_json(load_session(session.pk) or session, shown))


class QrPictureView(BaileysView):
    @extend_schema(responses={(200, "image/png"): OpenApiTypes.BINARY, 204: None, "default": Refused})
    def get(self, request: Request, connection_id: str) -> HttpResponseBase:
        """The same as a picture; 204 when there is none."""
        session = start_wanted(self, self.find(connection_id))
        return picture(read_qr(session_id=session.pk, tenant_id=session.tenant_id))


class RefreshQrView(BaileysView):
    @describe_simple(SimpleQrShape, message=True)
    def post(self, request: Request, connection_id: str) -> Response:
        """Another QR code than the one before."""
        session = start_wanted(self, self.find(connection_id))
        shown = renew_qr(session=session, asker=self.asker)
        data = _qr_json(load_session(session.pk) or session, shown)
        return said(data, message="Novo QR code." if shown.available else "Não há QR code agora.", pending=False)


class ReconnectView(BaileysView):
    @describe_simple(SimpleConnectionShape, message=True)
    def post(self, request: Request, connection_id: str) -> Response:
        """Want it connected, and connect it; its keys stay."""
        return _done(connect(self, self.find(connection_id)), "Reconexão iniciada.")


class AbortView(BaileysView):
    @describe_simple(SimpleConnectionShape, message=True)
    def post(self, request: Request, connection_id: str) -> Response:
        """Want it disconnected, and log it out."""
        return _done(disconnect(self, self.find(connection_id)), "Conexão interrompida.")


class ReconnectAllView(BaileysView):
    permissions: ClassVar = {"POST": "sessions:read"}

    @describe_simple(CountShape, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request) -> Response:
        """Connect again all that is wanted and not connected, as workers get to it. For supervisors."""
        wished = reconnect_all(asker=self.asker, now=timezone.now(), tenant_id=self.tenant_id)
        return said({"count": len(wished)}, code=status.HTTP_202_ACCEPTED)


def start_wanted(view: BaileysView, session: WhatsAppSession) -> WhatsAppSession:
    """Start a connection that is wanted and does not run; any other stays as it is."""
    if session.desired_state != "connected" or session.status in {_Status.CONNECTED, _Status.QRCODE}:
        return session
    if session.status != _Status.CONNECTING:
        return connect(view, session).session
    return view.carry_out(session).session if session.pending_wish else session


def connection_json(session: WhatsAppSession, now: datetime) -> dict[str, Any]:
    """A connection in their words."""
    return {
        "id": session.connection_id,
        "name": session.session_name,
        "type": TYPE,
        "connectionState": state_of(session),
        "isConnected": session.connected,
        "phoneNumber": session.phone_number,
        "whatsappId": session.whatsapp_id,
        "whatsappInfo": session.whatsapp_info,
        "qrCode": shown_qr(session, now).picture,
        "createdAt": iso(session.created_at),
        "updatedAt": iso(session.updated_at),
        "connectedAt": iso(session.connected_at),
        "owner_id": str(session.owner_id),
    }


def state_of(session: WhatsAppSession) -> str:
    """connected, connecting or disconnected."""
    return STATES.get(_Status(session.status), "disconnected")


def _with_state(sessions: QuerySet[WhatsAppSession], word: str) -> QuerySet[WhatsAppSession]:
    return sessions.filter(status__in=[one for one in _Status if word in {one, STATES.get(one, "disconnected")}])


def _qr_json(session: WhatsAppSession, shown: QrShown) -> dict[str, Any]:
    return {
        "qrCode": shown.picture,
        "connectionState": state_of(session),
        "isConnected": session.connected,
        "qrExpiresAt": iso(shown.expires_at),
        "qrVersion": session.qr_version,
    }


def _done(outcome: Outcome, message: str) -> Response:
    data = connection_json(outcome.session, timezone.now())
    return said(data, message=message, pending=outcome.pending, code=code_of(outcome))
