"""REST of one connection's state: how it is, what may be scanned, what happened to it (spec/sessions.md section 6).

A broker that is away never fails a reading: the database answers.
"""

from __future__ import annotations

from django.http import HttpResponse, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, answer, describe
from leadengine.accounts.api.schema import Refused
from whatsapp.api.base import SessionAPIView
from whatsapp.api.instances import Flag
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.serializers import InstanceStatusShape, SessionEventShape, session_event_json, status_json
from whatsapp.services.sessions.looking import load_session
from whatsapp.services.sessions.qr import QrShown, read_qr, shown_qr
from whatsapp.services.sessions.refreshing import refresh_session


class StatusQuery(Body):
    """`refresh=0` reads the database only."""

    refresh: Flag = True


class StatusView(SessionAPIView):
    @describe(InstanceStatusShape, query=StatusQuery)
    def get(self, request: Request, instance_id: str) -> Response:
        """How a connection is, asked of the broker first; `stale` when it could not be asked."""
        session = self.find(instance_id)
        if not self.read_query(StatusQuery).refresh:
            now = timezone.now()
            return answer(status_json(session, shown_qr(session, now), stale=False, now=now))
        failed = refresh_session(session=session, origin=self.asker.origin) is not None
        session = load_session(session.pk) or session
        if failed or session.status != WhatsAppSession.Status.QRCODE:
            now = timezone.now()
            return answer(status_json(session, shown_qr(session, now), stale=failed, now=now))
        return answer_qr(session)


class QrView(SessionAPIView):
    @describe(InstanceStatusShape)
    def get(self, request: Request, instance_id: str) -> Response:
        """What may be scanned now, in the shape of the status; while somebody looks, it is renewed unasked."""
        session = self.find(instance_id)
        self.read_query(Body)
        return answer_qr(session)


class QrPictureView(SessionAPIView):
    @extend_schema(responses={(200, "image/png"): OpenApiTypes.BINARY, 204: None, "default": Refused})
    def get(self, request: Request, instance_id: str) -> HttpResponseBase:
        """What may be scanned now as a picture; 204 when there is none."""
        session = self.find(instance_id)
        self.read_query(Body)
        return picture(read_qr(session_id=session.pk, tenant_id=session.tenant_id))


class EventListView(SessionAPIView):
    @describe(SessionEventShape, many=True, query=Query)
    def get(self, request: Request, instance_id: str) -> Response:
        """What happened to a connection, the newest first."""
        session = self.find(instance_id)
        query = self.read_query(Query)
        with self.scope():
            rows = SessionEvent.objects.for_tenant(session.tenant_id).filter(session=session)
            return self.answer_page(rows, query, session_event_json, keys=("at", "id"), descending=True)


def answer_qr(session: WhatsAppSession) -> Response:
    """The status of a session with the QR code that may be scanned now."""
    shown = read_qr(session_id=session.pk, tenant_id=session.tenant_id)
    now_row = load_session(session.pk) or session
    return answer(status_json(now_row, shown, stale=False, now=timezone.now()))


def picture(shown: QrShown) -> HttpResponse:
    """The PNG, which nobody may keep; 204 without one."""
    png = shown.png
    response = HttpResponse(png or b"", content_type="image/png", status=200 if png else 204)
    response["Cache-Control"] = "no-store"
    return response
