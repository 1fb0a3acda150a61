"""How a connection is told to people: one word, one colour, what is wrong and what to do now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import User
from leadengine.accounts.permissions import Role
from leadengine.admin_site.display import lasting
from tickets.models import Message
from tickets.services.outbox.circuit import CLOSED, Circuit, read_circuits
from whatsapp.models import WhatsAppSession
from whatsapp.services.lines import evidence_of
from whatsapp.services.sessions.qr import QrShown, shown_qr

Status = WhatsAppSession.Status
_LOOKS = {
    Status.CONNECTED: ("good", "tick"),
    Status.CONNECTING: ("info", "reopen"),
    Status.QRCODE: ("warning", "qr"),
    Status.ERROR: ("danger", "alert"),
    Status.LOGGED_OUT: ("danger", "alert"),
    Status.DUPLICATE: ("warning", "layers"),
    Status.DISCONNECTED: ("", "wifi-off"),
}
_SAYS: dict[str, tuple[str | Promise, str | Promise]] = {
    Status.CONNECTED: (_("Messages arrive and leave."), ""),
    Status.CONNECTING: (_("Connecting to WhatsApp…"), ""),
    Status.QRCODE: (_("Waiting for the phone."), _("Scan the QR code with the phone of this number.")),
    Status.ERROR: (_("The connection failed."), _("Connect it again.")),
    Status.LOGGED_OUT: (_("The session was ended on the phone."), _("Connect it and scan the new QR code.")),
    Status.DISCONNECTED: (_("Not connected: nothing arrives and nothing leaves."), _("Connect it.")),
}
_DOUBLE = (_("This phone is already connected here, by someone else."), _("Pair another number."))
_REPLACED = (_("A newer connection has this phone now."), _("Answers leave through it; this one may be deleted."))
_UNHEARD = (_("The WhatsApp service has not answered yet."), _("It is asked again by itself."))
_ENDING = (_("Disconnecting: the WhatsApp service has not confirmed it yet."), _("It is asked again by itself."))
_IDLE = (_("Nothing has come or gone for two weeks."), _("Open WhatsApp on the phone, or pair it again."))
_SILENT = (_("Connected, but unusually quiet."), _("Send it a test message, or pair it again."))
_SENT = ("SENT", "DELIVERED", "READ", "PLAYED")
_WAITING = frozenset({Status.CONNECTING, Status.QRCODE})


@dataclass(frozen=True, slots=True)
class Today:
    """Messages of a connection since midnight of its tenant."""

    received: int = 0
    sent: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ShownSession:
    """A connection as a page shows it to one person."""

    session: WhatsAppSession
    label: str
    tone: str
    icon: str
    says: tuple[str | Promise, str | Promise]  # what is so, and what to do
    phone: str
    mine: bool
    may_end: bool  # wipe and delete: its owner, and administrators (spec/sessions.md section 5)
    may_release: bool
    evidence: dict[str, Any]
    unheard: str  # for how long the service has not been heard, when that is too long
    qr: QrShown
    seconds_left: int
    today: Today
    circuit: Circuit

    @property
    def waits(self) -> bool:
        """Whether somebody who looks may see it change any moment."""
        return self.session.status in _WAITING

    @property
    def may_connect(self) -> bool:
        """Whether it is neither there nor on its way."""
        return not self.waits and not self.session.connected


def show_session(
    session: WhatsAppSession,
    user: User,
    now: datetime,
    today: Today | None = None,
    circuits: Mapping[UUID, Circuit] | None = None,
) -> ShownSession:
    """Everything that the templates need of a connection; its owner must be loaded. A list reads `circuits` once."""
    circuits = read_circuits(now=now) if circuits is None else circuits
    tone, icon = _LOOKS[Status(session.status)]
    evidence, qr = evidence_of(session, now), shown_qr(session, now)
    unheard = evidence["stale"] and (session.desired_state == "connected" or session.connected)
    heard = session.last_synced_at or session.created_at or now
    return ShownSession(
        session=session, label=capfirst(session.get_status_display()), tone=tone, icon=icon,
        says=_say(session, evidence), phone=_mask(session.phone_number), mine=session.owner_id == user.pk,
        may_end=session.owner_id == user.pk or user.role == Role.ADMIN, may_release=user.is_supervisor,
        evidence=evidence, unheard=lasting((now - heard).total_seconds()) if unheard else "", qr=qr,
        seconds_left=max(0, int((qr.expires_at - now).total_seconds())) if qr.expires_at else 0,
        today=today or Today(), circuit=circuits.get(session.pk, CLOSED),
    )  # fmt: skip


def count_today(ids: Iterable[UUID]) -> dict[UUID, Today]:
    """What each connection received, sent and failed to send since midnight. In the scope of whoever looks."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    # Ids are in the order of time, so the primary key finds the messages of the day.
    first = UUID(int=int(midnight.timestamp() * 1000) << 80)
    rows = Message.objects.filter(id__gte=first, session_id__in=list(ids)).values("session_id").order_by()
    counted = rows.annotate(
        received=Count("id", filter=Q(direction="INBOUND")),
        sent=Count("id", filter=Q(direction="OUTBOUND", status__in=_SENT)),
        failed=Count("id", filter=Q(direction="OUTBOUND", status="FAILED")),
    )
    return {row.pop("session_id"): Today(**row) for row in counted}


def visible_sessions(user: User) -> QuerySet[WhatsAppSession]:
    """The person's own connections; supervisors see all of the tenant. To be read in their scope."""
    rows: QuerySet[WhatsAppSession] = WhatsAppSession.objects.for_tenant(user.tenant_id or "").filter(deleted_at=None)
    return (rows if user.may("sessions:read") else rows.filter(owner=user)).select_related("owner")


def may_create(user: User) -> bool:
    """Agents may own connections unless their tenant says otherwise."""
    return user.is_supervisor or (
        user.tenant is not None and user.tenant.settings.get("agentsMayOwnSessions") is not False
    )


def _say(session: WhatsAppSession, evidence: dict[str, Any]) -> tuple[str | Promise, str | Promise]:
    error = session.last_error or {}
    if session.status == Status.DUPLICATE:
        return _DOUBLE
    if session.duplicate_reason and session.replaced_by:
        return _REPLACED
    if session.pending_wish == WhatsAppSession.Wish.CONNECT and session.broker_confirmed_at is None:
        return _UNHEARD if evidence["stale"] else _SAYS[Status.CONNECTING]
    if session.pending_wish in {WhatsAppSession.Wish.LOGOUT, WhatsAppSession.Wish.WIPE}:
        return _ENDING
    if session.status == Status.QRCODE and not error:
        return _SAYS[Status.QRCODE]
    if error:
        return error.get("message", ""), error.get("action", "")
    if session.connected and session.reauth_reason:
        return _IDLE
    if evidence["silent"]:
        return _SILENT
    return _SAYS[Status(session.status)]


def _mask(phone: str | None) -> str:
    """The country and the last four digits."""
    digits = re.sub(r"\D", "", phone or "")
    return f"+{digits[:2]} •••• {digits[-4:]}" if len(digits) > 6 else ""
