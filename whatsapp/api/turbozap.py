"""TurboZap's routes of connections: `/instance/…`, the same under `/api/instance/…` (spec/sessions.md section 7)."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from pydantic import Field
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.models import ApiKey
from leadengine.accounts.services import issue_api_key
from tickets.services.shapes import iso
from whatsapp.api.turbozap_base import NAME, WORDS, SnakeBody, Status, TurboZapView, said
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.acting import Outcome
from whatsapp.services.sessions.listening import ask_for_look
from whatsapp.services.sessions.looking import load_session
from whatsapp.services.sessions.qr import QrShown, read_qr
from whatsapp.services.sessions.wishes import (
    NewSession,
    connect_session,
    create_session,
    delete_session,
    disconnect_session,
    edit_session,
)

_STOPPED = frozenset({Status.DISCONNECTED, Status.ERROR, Status.DUPLICATE, Status.LOGGED_OUT})


class NameBody(SnakeBody):
    name: str = Field(pattern=NAME)


class CreateView(TurboZapView):
    def post(self, request: Request) -> Response:
        """Make a connection of the caller's, and a key for it alone, which is shown once."""
        body = self.read_body(NameBody)
        assert self.tenant_id is not None, "keys have a tenant"  # noqa: S101 - narrows the type
        wish = NewSession(
            tenant_id=self.tenant_id, owner=self.user, name=body.name, connection_id=body.name, unique_id=False,
            auto_connect=False,
        )  # fmt: skip
        session = create_session(wish=wish, asker=self.asker, now=timezone.now()).session
        rights = self.api_key.scopes if self.api_key is not None else []  # never more than the key that asks
        with self.scope():
            key, _ = issue_api_key(
                owner=self.user, tenant_id=session.tenant_id, name=session.session_name[:80],
                kind=ApiKey.Kind.INSTANCE, scopes=rights, session_id=session.pk,
            )  # fmt: skip
        row = _row(session)
        data = {"id": row["id"], "name": row["name"], "api_key": key, "status": row["status"]}
        return said(data, code=status.HTTP_201_CREATED)


class ListView(TurboZapView):
    def get(self, request: Request) -> Response:
        """Every connection that the caller sees."""
        with self.scope():
            rows = [_row(session) for session in self.visible().order_by("created_at", "id")]
        return said({"instances": rows, "total": len(rows)})


class InstanceView(TurboZapView):
    def get(self, request: Request, instance: str) -> Response:
        """One connection."""
        return said(_row(self.find_named(instance)))

    def delete(self, request: Request, instance: str) -> Response:
        """Take a connection out of use, here and at the broker."""
        session = self.find_named(instance)
        self.require_own(session)
        delete_session(session=session, asker=self.asker, now=timezone.now())
        outcome = self.carry_out(session)
        return said({"name": session.session_name, "message": "Instance deleted"}, code=_code(outcome))


class StatusView(TurboZapView):
    def get(self, request: Request, instance: str) -> Response:
        """How a connection is, and what to do when something is wrong."""
        session = self.find_named(instance)
        trouble = session.last_error or {}
        row = _row(session)
        shown = {field: row[field] for field in ("name", "status", "phone_number", "profile_name", "profile_pic")}
        return said(shown | {"last_error": trouble.get("message"), "action": trouble.get("action")})


class QrCodeView(TurboZapView):
    def get(self, request: Request, instance: str) -> Response:
        """What is to be scanned now. A connection that is stopped is started by asking."""
        session = self.find_named(instance)
        if session.status in _STOPPED:
            session = connect_session(session=session, asker=self.asker, now=timezone.now())
        if session.pending_wish == WhatsAppSession.Wish.CONNECT:
            self.carry_out(session)
        shown = read_qr(session_id=session.pk, tenant_id=session.tenant_id)
        return said(_qr(load_session(session.pk) or session, shown))


class ConnectView(TurboZapView):
    def post(self, request: Request, instance: str) -> Response:
        """Want a connection connected."""
        session = self.find_named(instance)
        connect_session(session=session, asker=self.asker, now=timezone.now())
        outcome = self.carry_out(session)
        word, message = "connecting", "Connection started"
        if outcome.session.connected:
            word, message = "connected", "Instance is already connected"
        return said({"name": session.session_name, "status": word, "message": message}, code=_code(outcome))


class RestartView(TurboZapView):
    def put(self, request: Request, instance: str) -> Response:
        """Begin anew with the keys that there are: attempts start at once, an open link is looked at."""
        session = self.find_named(instance)
        connect_session(session=session, asker=self.asker, now=timezone.now())
        outcome = self.carry_out(session)
        if outcome.session.connected:
            ask_for_look(session.pk, source="api", contradicted=False)
        data = {"name": session.session_name, "status": "restarting", "message": "Instance is restarting"}
        return said(data, code=_code(outcome))


class LogoutView(TurboZapView):
    def post(self, request: Request, instance: str) -> Response:
        """Log a connection out at the broker; a new QR code is needed afterwards."""
        session = self.find_named(instance)
        disconnect_session(session=session, asker=self.asker, now=timezone.now())
        outcome = self.carry_out(session)
        data = {"name": session.session_name, "status": "disconnected", "message": "Instance logged out"}
        return said(data, code=_code(outcome))


class RenameView(TurboZapView):
    def put(self, request: Request, instance: str) -> Response:
        """Give a connection another name; its connection_id stays."""
        body = self.read_body(NameBody)
        session = self.find_named(instance)
        edit_session(session=session, asker=self.asker, now=timezone.now(), name=body.name)
        return said({"old_name": session.session_name, "new_name": body.name, "message": "Instance renamed"})


def _code(outcome: Outcome) -> int:
    """202 while the broker has still to do it."""
    return status.HTTP_202_ACCEPTED if outcome.pending else status.HTTP_200_OK


def _row(session: WhatsAppSession) -> dict[str, Any]:
    return {
        "id": str(session.pk),
        "name": session.session_name,
        "status": WORDS[Status(session.status)],
        "phone_number": session.phone_number,
        "profile_name": session.profile_name,
        "profile_pic": session.profile_pic,
        "created_at": iso(session.created_at),
    }


def _qr(session: WhatsAppSession, shown: QrShown) -> dict[str, Any]:
    word = "qrcode" if shown.available else "pending"
    return {
        "name": session.session_name,
        "status": "connected" if session.connected else word,
        "qrcode": shown.raw,
        "code": shown.raw,
        "qr_code": shown.picture,
        "expires_at": iso(shown.expires_at),
    }
