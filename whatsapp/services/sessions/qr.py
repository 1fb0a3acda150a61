"""QR codes: read from the broker, decoded or drawn, stored with their end, and never served when that has passed."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import Literal
from uuid import UUID

import segno
import structlog
import zxingcpp
from django.conf import settings
from django.utils import timezone
from PIL import Image, UnidentifiedImageError

from leadengine import metrics
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.errors import NotConfigured
from whatsapp.adapters import QrCode, SessionState, get_adapter
from whatsapp.adapters.patience import within
from whatsapp.broker_errors import BrokerError
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import persist
from whatsapp.services.sessions.changing import Change, Origin, change_session
from whatsapp.services.sessions.looking import look
from whatsapp.services.sessions.parallel import alone

log = structlog.get_logger(__name__)
FIRST_SECONDS, NEXT_SECONDS = 60, 20  # what a QR code lives where the broker does not say
FRESH = timedelta(seconds=5)  # an older one is checked with the broker when it is read
READ_SECONDS = 3.0
_SCANNED_SOON = frozenset({WhatsAppSession.Status.QRCODE, WhatsAppSession.Status.CONNECTING})
_PREFIX = "data:image/png;base64,"


class QrUnreadable(Exception):
    """The broker gave a picture in which there is no QR code."""


@dataclass(frozen=True, slots=True)
class QrShown:
    """What may be scanned now; `reason` says why there is nothing."""

    available: bool
    picture: str | None = None  # PNG data URL
    raw: str | None = None
    expires_at: datetime | None = None
    reason: Literal["UNAVAILABLE", "EXPIRED"] | None = None

    @property
    def png(self) -> bytes | None:
        """The picture's bytes."""
        return base64.b64decode(self.picture.removeprefix(_PREFIX)) if self.picture else None


def shown_qr(session: WhatsAppSession, now: datetime) -> QrShown:
    """The stored QR code, unless its time is over."""
    if session.status != WhatsAppSession.Status.QRCODE or not session.qr_code:
        return QrShown(False, reason="UNAVAILABLE")
    if session.qr_expires_at is None or session.qr_expires_at <= now:
        return QrShown(False, reason="EXPIRED")
    return QrShown(True, session.qr_code, session.qr_raw, session.qr_expires_at)


def read_qr(*, session_id: UUID, tenant_id: UUID) -> QrShown:
    """What may be scanned now: the stored code when it is fresh, else checked with the broker for up to 3 s.

    Somebody looks: the code is renewed unasked for WHATSAPP_QR_VIEW_SECONDS. A broker that is away costs nothing: the
    stored code is served while it is valid. No transaction may be open.
    """
    now = timezone.now()
    session = _viewed(session_id, tenant_id, now)
    if session is None or session.status not in _SCANNED_SOON:
        return QrShown(False, reason="UNAVAILABLE")
    looked_at = session.last_probe_at
    if looked_at is None or now - looked_at > FRESH or not shown_qr(session, now).available:
        try:
            with within(READ_SECONDS):
                fetch_qr(session=session, state=look(session, origin=Origin("user")))
        except (BrokerError, NotConfigured) as error:
            log.info("qr_not_checked", session_id=str(session_id), error=error.code)
        with tenant_scope(tenant_id):
            session = WhatsAppSession.objects.for_tenant(tenant_id).get(pk=session_id)
    return shown_qr(session, timezone.now())


def fetch_qr(*, session: WhatsAppSession, state: SessionState | None) -> bool:
    """Read the QR code that the broker shows now and store it; False when it waits for no scan. Raises: BrokerError."""
    if state is None or state.state != "qrcode":
        return False
    began = timezone.now()
    try:
        found = get_adapter().qr(instance=state.instance)
        if found is None:
            return False
        picture, raw = _complete(found)
    except (BrokerError, QrUnreadable) as error:
        metrics.qr_codes.labels(result="error").inc()
        log.warning("qr_failed", session_id=str(session.pk), error=type(error).__name__)
        if isinstance(error, QrUnreadable):
            return False
        raise
    _store(session, picture, raw, state.qr_expires_at, began)
    return True


def _store(session: WhatsAppSession, picture: str, raw: str, expires_at: datetime | None, began: datetime) -> None:
    """Keep a QR code with its end, under a new version when it is another one than before."""
    now = timezone.now()

    def decide(row: WhatsAppSession) -> Change | None:
        moved_on = row.state_changed_at is not None and row.state_changed_at > began
        if row.status != WhatsAppSession.Status.QRCODE or moved_on or row.qr_raw == raw:
            return None
        if expires_at is not None and expires_at <= now:
            return None  # its time was over before it could be shown
        ends = expires_at or now + timedelta(seconds=NEXT_SECONDS if row.qr_raw else FIRST_SECONDS)
        return Change(
            "qr", {"qr_code": picture, "qr_raw": raw, "qr_version": row.qr_version + 1, "qr_expires_at": ends}
        )

    changed = change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.observe", origin=Origin("sync"),
        decide=decide, now=now,
    )  # fmt: skip
    if changed is not None:
        metrics.qr_codes.labels(result="success").inc()


def refresh_qr(*, now: datetime) -> int:
    """Renew the codes that somebody looked at lately, and clear those whose time is over; returns how many are new."""
    since = now - timedelta(seconds=settings.WHATSAPP_QR_VIEW_SECONDS)
    with service_scope("QR codes that are looked at"):
        waiting = WhatsAppSession.objects.filter(status=WhatsAppSession.Status.QRCODE, deleted_at=None)
        rows = list(waiting.filter(qr_viewed_at__gt=since)[:200])
    renewed = 0
    for session in rows:
        with alone(session):
            renewed += fetch_qr(session=session, state=look(session, origin=Origin("sync")))
    clear_expired(now=now)
    return renewed


def clear_expired(*, now: datetime) -> None:
    """A code whose time is over leaves the database."""

    def write() -> None:
        WhatsAppSession.objects.filter(qr_code__isnull=False, qr_expires_at__lte=now).update(
            qr_code=None, qr_raw=None, qr_expires_at=None
        )

    persist("session.evidence", write, scope=lambda: service_scope("expired QR codes"))


def _viewed(session_id: UUID, tenant_id: UUID, now: datetime) -> WhatsAppSession | None:
    def write() -> WhatsAppSession | None:
        rows = WhatsAppSession.objects.for_tenant(tenant_id).filter(pk=session_id, deleted_at=None)
        rows.update(qr_viewed_at=now)
        session: WhatsAppSession | None = rows.first()
        return session

    return persist("session.evidence", write, scope=lambda: tenant_scope(tenant_id))


def _complete(found: QrCode) -> tuple[str, str]:
    """(PNG data URL, string), each made from the other where the broker gave only one. Raises: QrUnreadable."""
    if found.picture is not None:
        return _PREFIX + base64.b64encode(found.picture).decode(), found.raw or _decode(found.picture)
    if not found.raw:
        raise QrUnreadable
    out = BytesIO()
    segno.make_qr(found.raw, error="l").save(out, kind="png", scale=6, border=4)
    return _PREFIX + base64.b64encode(out.getvalue()).decode(), found.raw


def _decode(picture: bytes) -> str:
    try:
        with Image.open(BytesIO(picture)) as image:
            codes = zxingcpp.read_barcodes(
                image.convert("L"), formats=zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode)
            )
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise QrUnreadable from error
    if not codes:
        raise QrUnreadable
    return str(codes[0].text)
