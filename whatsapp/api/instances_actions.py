"""REST of what people do with a connection: connect, pair, disconnect, release (spec/sessions.md section 6).

Each wish is committed before the broker hears of it; one that the broker has still to do is 202 with `pending`.
"""

from __future__ import annotations

from typing import ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import Field
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, answer, describe
from leadengine.accounts.api.schema import Shape
from leadengine.errors import DomainError
from whatsapp.api.base import SessionAPIView
from whatsapp.api.instances import WipeBody
from whatsapp.models import WhatsAppSession
from whatsapp.serializers import DisconnectShape, InstanceShape, PairShape, instance_json
from whatsapp.services.sessions.acting import NotConnected, Outcome, pair_phone, release_session, renew_qr
from whatsapp.services.sessions.looking import load_session
from whatsapp.services.sessions.reconnecting import reconnect_all
from whatsapp.services.sessions.wishes import connect_session, disconnect_session

_GONE = {
    "qr": "GET /api/integrations/whatsapp/instances/{id}/qr",
    "qr.png": "GET /api/integrations/whatsapp/instances/{id}/qr.png",
    "pair": "POST /api/integrations/whatsapp/instances/{id}/pair",
    "connect": "POST /api/integrations/whatsapp/instances/{id}/connect",
    "logout": "POST /api/integrations/whatsapp/instances/{id}/disconnect",
    "status": "GET /api/integrations/whatsapp/instances/{id}/status",
}


class EndpointGone(DomainError):
    """Este endereço não existe mais."""

    code = "ENDPOINT_GONE"
    status = 410


class PairBody(Body):
    """Without `phoneNumber` what can be used to pair is renewed."""

    phone_number: str | None = Field(None, max_length=40)


class CountShape(Shape):
    count: int


class ConnectView(SessionAPIView):
    @describe(InstanceShape)
    def post(self, request: Request, instance_id: str) -> Response:
        """Want it connected. 202 with `pending` while the broker has still to do it."""
        session = self.find(instance_id)
        self.read_body(Body)
        outcome = connect(self, session)
        data = instance_json(outcome.session, full=True, now=timezone.now()) | {"pending": outcome.pending}
        return answer(data, code=code_of(outcome))


class DisconnectView(SessionAPIView):
    """Both addresses, `disconnect` and `stop`, log out at the broker."""

    @describe(DisconnectShape, body=WipeBody)
    def post(self, request: Request, instance_id: str) -> Response:
        """Log out; `wipe` clears the keys at the broker too, and is for the owner and admins. One that is offline is
        done; 202 with `pending` while the broker has still to do it."""
        session = self.find(instance_id)
        wipe = self.read_body(WipeBody).wipe
        outcome = disconnect(self, session, wipe=wipe)
        data = {
            "disconnected": not outcome.pending,
            "pending": outcome.pending,
            "instance": instance_json(outcome.session, full=True, now=timezone.now()) | {"pending": outcome.pending},
        }
        return answer(data, code=code_of(outcome))


class PairView(SessionAPIView):
    @describe(PairShape, body=PairBody)
    def post(self, request: Request, instance_id: str) -> Response:
        """A code to type on the phone. Without a number the QR code is renewed; one that is connected stays so."""
        session = self.find(instance_id)
        phone = self.read_body(PairBody).phone_number
        code = None
        if not session.connected and session.desired_state != "connected":
            raise NotConnected(status=session.status, connected=False, retryAfter=5)
        if not session.connected and phone is not None:
            code = pair_phone(session=session, phone=phone, asker=self.asker)
        elif not session.connected:
            renew_qr(session=session, asker=self.asker)
        row = load_session(session.pk) or session
        instance = instance_json(row, full=True, now=timezone.now())
        return answer({"pairingCode": code, "connected": row.connected, "instance": instance})


class ReleaseView(SessionAPIView):
    permissions: ClassVar = {"POST": "sessions:read"}

    @describe(InstanceShape)
    def post(self, request: Request, instance_id: str) -> Response:
        """Lift a risk pause at the broker: what was held leaves. For supervisors (spec/outbound.md section 4)."""
        session = self.find(instance_id)
        self.read_body(Body)
        released = release_session(session=session, asker=self.asker)
        return answer(instance_json(released, full=True, now=timezone.now()))


class ReconnectAllView(SessionAPIView):
    permissions: ClassVar = {"POST": "sessions:read"}

    @describe(CountShape, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request) -> Response:
        """Connect again all that is wanted and not connected, as workers get to it. For supervisors."""
        self.read_body(Body)
        wished = reconnect_all(asker=self.asker, now=timezone.now(), tenant_id=self.tenant_id)
        return answer({"count": len(wished)}, code=status.HTTP_202_ACCEPTED)


@extend_schema(exclude=True)
class GoneView(SessionAPIView):
    """An address of earlier versions that named no connection: 410, naming the one that took its place."""

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Raises: EndpointGone, where the address that took its place would have answered."""
        super().initial(request, *args, **kwargs)
        raise EndpointGone(use=_GONE[str(self.kwargs["was"])])


def connect(view: SessionAPIView, session: WhatsAppSession) -> Outcome:
    """Want a session connected, and do it as far as the broker answers in time; one that is connected is done."""
    wished = connect_session(session=session, asker=view.asker, now=timezone.now())
    return view.carry_out(wished) if wished.pending_wish else Outcome(wished, pending=False)


def disconnect(view: SessionAPIView, session: WhatsAppSession, *, wipe: bool = False) -> Outcome:
    """Want a session logged out, and do it as far as the broker answers in time; one that is offline is done.

    Raises: PermissionDenied for the keys of another's session, except to admins.
    """
    if wipe:
        view.require_own(session)
    offline = session.status == WhatsAppSession.Status.DISCONNECTED and session.desired_state == "disconnected"
    if offline and session.pending_wish is None and not wipe:
        return Outcome(session, pending=False)
    wished = disconnect_session(session=session, asker=view.asker, now=timezone.now(), wipe=wipe)
    return view.carry_out(wished)


def code_of(outcome: Outcome) -> int:
    """202 while the broker has still to do it."""
    return status.HTTP_202_ACCEPTED if outcome.pending else status.HTTP_200_OK
