"""Bringing connections back after a start (spec/sessions.md section 8, Recovery)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.errors import NotConfigured
from whatsapp.adapters import get_adapter
from whatsapp.broker_errors import BrokerError
from whatsapp.models import RecoveryRun, WhatsAppSession
from whatsapp.services.sessions.changing import Origin
from whatsapp.services.sessions.listening import stopping
from whatsapp.services.sessions.looking import load_session, look, wire_name
from whatsapp.services.sessions.maintaining import end_duty, may_reconnect, read_maintenance, take_duty
from whatsapp.services.sessions.parallel import for_each
from whatsapp.services.sessions.qr import fetch_qr

log = structlog.get_logger("whatsapp.persistence")
Status = WhatsAppSession.Status
ONCE_IN = timedelta(seconds=60)
_PAUSES = (2.0, 4.0, 8.0)
_NAME = "recovery"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of the sessions that were expected: counts, and the seconds of the slowest that came back."""

    expected: int
    reconnected: int
    lost: int
    slowest_seconds: float | None


def recover_sessions(*, trigger: str, force: bool = False) -> Recovered | None:
    """Probe every wanted session that was connected or connecting, and start those that are not.

    None when another process does it, or did within the last minute (`force` does it all the same). What is not
    connected after WHATSAPP_RECOVERY_DEADLINE_SECONDS counts as lost; the sync goes on with it.
    """
    began, holder = timezone.now(), uuid4()
    deadline = settings.WHATSAPP_RECOVERY_DEADLINE_SECONDS
    not_since = None if force else began - ONCE_IN
    if not take_duty(name=_NAME, holder=holder, seconds=deadline + 5, now=began, not_since=not_since):
        return None
    try:
        return _recover(trigger, began)
    finally:
        end_duty(name=_NAME, holder=holder, done_at=timezone.now())


def _recover(trigger: str, began: datetime) -> Recovered:
    maintenance = read_maintenance()
    with service_scope("sessions to recover"):
        wanted = WhatsAppSession.objects.filter(
            desired_state="connected", deleted_at=None, tenant__is_active=True,
            status__in=[Status.CONNECTED, Status.CONNECTING],
        )  # fmt: skip
        sessions = [session for session in wanted if session.pending_wish is None]
    until = time.monotonic() + settings.WHATSAPP_RECOVERY_DEADLINE_SECONDS
    back: dict[UUID, float] = {}

    def one(session: WhatsAppSession) -> None:
        seconds = _bring_back(session, until, may_start=may_reconnect(session, maintenance))
        if seconds is not None:
            back[session.pk] = seconds

    for_each(sessions, one)
    _note(sessions, back, trigger, began)
    slowest = max(back.values(), default=None)
    result = Recovered(len(sessions), len(back), len(sessions) - len(back), slowest)
    log.info(
        "sessions_recovered", trigger=trigger, expected=result.expected, reconnected=result.reconnected,
        lost=result.lost, slowest_seconds=slowest,
    )  # fmt: skip
    return result


def _bring_back(session: WhatsAppSession, until: float, *, may_start: bool) -> float | None:
    """Seconds until the session was connected; None when it was not in time, or waits for a scan."""
    began, origin = time.monotonic(), Origin("recovery")
    pauses = list(_PAUSES)
    while True:
        try:
            state = look(session, origin=origin)
            if state is None:
                return None  # the broker has lost it: the sync makes it anew
            if state.connected:
                return round(time.monotonic() - began, 3)
            row = load_session(session.pk)
            if row is None or row.status not in {Status.CONNECTED, Status.CONNECTING, Status.QRCODE}:
                return None  # what it ended with, another start does not mend
            if state.state == "qrcode":
                fetch_qr(session=session, state=state)
                return None
            if may_start:
                get_adapter().connect(instance=wire_name(session))
        except NotConfigured:
            return None
        except BrokerError as error:
            log.warning("recovery_try_failed", session_id=str(session.pk), error=error.code)
        pause = pauses.pop(0) if pauses else _PAUSES[-1]
        if time.monotonic() + pause > until:
            return None
        if stopping.wait(pause):
            return None  # this process ends: whoever starts next goes on
        fresh = load_session(session.pk)
        if fresh is None or fresh.desired_state != "connected":
            return None
        session = fresh


def _note(sessions: Iterable[WhatsAppSession], back: dict[UUID, float], trigger: str, began: datetime) -> None:
    """A row per tenant."""
    by_tenant: dict[UUID, list[WhatsAppSession]] = defaultdict(list)
    for session in sessions:
        by_tenant[session.tenant_id].append(session)
    for tenant_id, rows in by_tenant.items():
        seconds = [back[row.pk] for row in rows if row.pk in back]
        with tenant_scope(tenant_id):
            RecoveryRun.objects.create(
                tenant_id=tenant_id, trigger=trigger, started_at=began, finished_at=timezone.now(), expected=len(rows),
                reconnected=len(seconds), lost=len(rows) - len(seconds), slowest_seconds=max(seconds, default=None),
            )  # fmt: skip
