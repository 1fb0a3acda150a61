"""`manage.py reauth_instance NAME`: the playbook of reauthentication (seed 004, section 2.2)."""

from __future__ import annotations

import json
import time
from io import StringIO
from typing import Any

import segno
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from leadengine.errors import DomainError
from whatsapp.adapters import get_adapter
from whatsapp.management.sessions import OPERATOR, as_json, find_session
from whatsapp.management.telling import FOUND, LedgerCommand, stoppable
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.changing import Origin
from whatsapp.services.sessions.looking import load_session
from whatsapp.services.sessions.qr import read_qr
from whatsapp.services.sessions.syncing import sync_session
from whatsapp.services.sessions.wishes import connect_session

_LOOK = 1.0  # seconds
Status = WhatsAppSession.Status
_HOPELESS = {Status.ERROR, Status.DUPLICATE, Status.DISCONNECTED}


class Command(LedgerCommand):
    help = (
        "Pairs a connection again: says its status, connects it, draws the QR code here, each new one as it comes, and "
        "waits until somebody has scanned it. Exit code 0: connected (or it was already); 1: not in time, or the "
        "attempt ended; 2: several connections have that name. Example: manage.py reauth_instance loja-01"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="its name, connection id or id")
        parser.add_argument("--wait", type=float, default=120, metavar="SECONDS", help="at most so long (default: 120)")

    def handle(self, *_args: Any, **options: Any) -> None:
        self.asked_json = options["json"]
        session = find_session(options["name"])
        try:
            get_adapter().require_configured()
            self._say(f"Status: {session.status}")
            if not session.connected:
                self._say("Connecting …")
                connect_session(session=session, asker=OPERATOR, now=timezone.now())
                carry_out(session=session, asker=OPERATOR)
                with stoppable(lambda: "the QR code stays valid on the page of connections; start again."):
                    session = self._wait(session, options["wait"])
        except DomainError as error:
            raise CommandError(f"{error.code}: {error}", returncode=FOUND) from error
        if self.asked_json:
            self.stdout.write(json.dumps(as_json(find_session(str(session.pk)), timezone.now()), ensure_ascii=False))
        elif session.connected:
            self.stdout.write("Connected.")
        else:
            told = session.last_error
            self.stdout.write(f"Not connected ({session.status}). {told['message'] if told else 'Time is over.'}")
        self.end(0 if session.connected else FOUND)

    def _wait(self, session: WhatsAppSession, seconds: float) -> WhatsAppSession:
        """Look until it is connected, its attempt has ended or time is over; the session as it is then."""
        end, drawn = time.monotonic() + seconds, None
        while True:
            sync_session(session_id=session.pk, origin=Origin("admin"))
            session = load_session(session.pk) or session
            if session.connected or session.status in _HOPELESS or time.monotonic() >= end:
                return session
            if session.status == Status.QRCODE:
                shown = read_qr(session_id=session.pk, tenant_id=session.tenant_id)
                if shown.raw and shown.raw != drawn:
                    drawn = shown.raw
                    self._draw(drawn)
            time.sleep(min(_LOOK, max(0.0, end - time.monotonic())))

    def _draw(self, code: str) -> None:
        if self.asked_json:
            return
        self.stdout.write("Scan this QR code with WhatsApp (Settings, Linked devices):")
        picture = StringIO()
        segno.make_qr(code, error="l").terminal(out=picture, compact=True)
        self.stdout.write(picture.getvalue())
        self.stdout.flush()

    def _say(self, sentence: str) -> None:
        if not self.asked_json:
            self.stdout.write(sentence)
