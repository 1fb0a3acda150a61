"""Wish and broker, brought together every few seconds, in both directions (spec/sessions.md section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.errors import NotConfigured
from whatsapp.adapters import LineState, get_adapter
from whatsapp.broker_errors import BrokerError, InstanceNotFound
from whatsapp.models import Maintenance, WhatsAppSession
from whatsapp.services.persistence import persist
from whatsapp.services.sessions import states
from whatsapp.services.sessions.changing import Change, Origin, change_session, moved
from whatsapp.services.sessions.converging import converge, recreate
from whatsapp.services.sessions.looking import load_session, look, wire_name
from whatsapp.services.sessions.maintaining import end_duty, may_reconnect, read_maintenance, take_duty
from whatsapp.services.sessions.observing import observe
from whatsapp.services.sessions.parallel import alone, for_each
from whatsapp.services.sessions.qr import fetch_qr, shown_qr
from whatsapp.services.sessions.states import Trigger

log = structlog.get_logger(__name__)
Status = WhatsAppSession.Status
Wish = WhatsAppSession.Wish
FULL = timedelta(seconds=30)  # every so often everything is read, not only what the overview shows to have changed
_LEASE = 10.0  # two rounds at once would do no harm, only ask twice
# What the overview says where nothing needs a second look.
_AGREES: dict[str, frozenset[LineState]] = {
    Status.CONNECTED: frozenset({"connected"}),
    Status.DISCONNECTED: frozenset({"closed", "connecting", "qrcode", "expired"}),
    Status.DUPLICATE: frozenset({"closed", "connecting", "qrcode", "expired"}),
    Status.LOGGED_OUT: frozenset({"closed", "connecting", "expired"}),
    Status.ERROR: frozenset({"closed", "expired"}),
}


@dataclass(frozen=True, slots=True)
class Tick:
    """What one round needs to know."""

    origin: Origin
    maintenance: Maintenance
    now: datetime


def sync_sessions(*, now: datetime, everything: bool = False) -> int:
    """Look at the sessions whose state may have changed and act on what is wanted; returns how many were looked at.

    A broker that cannot be reached changes nothing: the rows grow stale. One process at a time does this.
    """
    holder = uuid4()
    if not take_duty(name="sync", holder=holder, seconds=_LEASE, now=now):
        return 0
    try:
        return _sync(now, everything)
    except (BrokerError, NotConfigured) as error:
        log.info("sync_without_broker", error=error.code)
        return 0
    finally:
        end_duty(name="sync", holder=holder)


def sync_session(*, session_id: UUID, origin: Origin, contradicted: bool = False) -> None:
    """Look at one session now: the stream spoke of it, or a send was refused as offline."""
    session = load_session(session_id)
    if session is None:
        return
    tick = Tick(origin, read_maintenance(), timezone.now())
    _look_at(session, tick, contradicted=contradicted)


def find_by_wire_name(instance: str) -> UUID | None:
    """The session that the broker calls so."""
    with service_scope("session of the broker's stream"):
        rows = WhatsAppSession.objects.filter(broker_instance_id=instance, deleted_at=None)
        found = rows.values_list("pk", flat=True).first()
        if found is None:
            rows = WhatsAppSession.objects.filter(connection_id=instance, broker_instance_id=None, deleted_at=None)
            found = rows.values_list("pk", flat=True).first()
    result: UUID | None = found
    return result


def _sync(now: datetime, everything: bool) -> int:
    adapter = get_adapter()
    adapter.require_configured()
    with service_scope("sessions to synchronise"):
        live = WhatsAppSession.objects.filter(tenant__is_active=True).defer("qr_code", "whatsapp_info", "profile_pic")
        sessions = list(live.filter(deleted_at=None)) + list(live.filter(pending_wish=Wish.DELETE))
    if not sessions:
        return 0
    overview = adapter.overview()
    tick = Tick(Origin("sync"), read_maintenance(), now)
    doubtful = [one for one in sessions if everything or _needs_look(one, overview, tick)]
    sure = [one.pk for one in sessions if wire_name(one) in overview]
    if sure:
        persist("session.sync", partial(_note_synced, sure, now), scope=partial(service_scope, "sessions were seen"))
    for_each(doubtful, lambda session: _look_at(session, tick))
    _look_through([one for one in sessions if one.connected and _is_old(one, tick)], tick)
    return len(doubtful)


def _needs_look(session: WhatsAppSession, overview: Mapping[str, LineState], tick: Tick) -> bool:
    if session.pending_wish or session.risk_paused or session.status in {Status.CONNECTING, Status.QRCODE}:
        return True
    if session.connected and session.desired_state != "connected":
        return True
    if session.next_attempt_at is not None and session.next_attempt_at <= tick.now:
        return True
    if not session.connected and session.desired_state == "connected" and _is_old(session, tick):
        return True
    return overview.get(wire_name(session)) not in _AGREES[session.status]


def _is_old(session: WhatsAppSession, tick: Tick) -> bool:
    return session.last_probe_at is None or tick.now - session.last_probe_at > FULL


def _look_through(sessions: list[WhatsAppSession], tick: Tick) -> None:
    """What one call tells of all that are connected: their phone, their profile, a pause for risk."""
    if not sessions:
        return
    began = timezone.now()
    try:
        found = get_adapter().list_own(instances={wire_name(one) for one in sessions})
    except BrokerError as error:
        log.info("sessions_not_listed", error=error.code)
        return
    listed = {state.instance: state for state in found}
    for session in sessions:
        state = listed.get(wire_name(session))
        if state is None or not state.connected:
            continue
        with alone(session):
            observe(
                session_id=session.pk, tenant_id=session.tenant_id, state=state, began=began, origin=tick.origin,
                now=timezone.now(),
            )  # fmt: skip


def _look_at(session: WhatsAppSession, tick: Tick, *, contradicted: bool = False) -> None:
    """One session: its wish, its state at the broker, and an attempt when one is due."""
    with alone(session):
        if session.pending_wish in {Wish.LOGOUT, Wish.WIPE, Wish.DELETE}:
            converge(session_id=session.pk, origin=tick.origin)
        elif session.pending_wish == Wish.CONNECT and not session.connected and _is_due(session):
            _attempt(session, tick)  # first it is told, then it is asked: why it ended before does not matter
        else:
            _follow(session, tick, contradicted)


def _is_due(session: WhatsAppSession) -> bool:
    return session.next_attempt_at is None or session.next_attempt_at <= timezone.now()


def _follow(session: WhatsAppSession, tick: Tick, contradicted: bool) -> None:
    unexpected = session.connected and session.desired_state != "connected"
    state = look(session, origin=tick.origin, contradicted=contradicted)
    if unexpected and state is not None and state.connected:
        _end_unexpected(session, tick)
        return
    now_row = load_session(session.pk)
    if now_row is None:
        return
    if state is None:
        _lost_by_broker(now_row, tick)
    elif state.state == "qrcode" and now_row.status == Status.QRCODE and _wants_qr(now_row):
        fetch_qr(session=session, state=state)
    elif _has_bad_keys(now_row) and state.state == "closed" and may_reconnect(now_row, tick.maintenance):
        get_adapter().wipe(instance=wire_name(now_row))  # only without them does it show a new QR code
    elif now_row.status != Status.CONNECTED:
        _attempt(now_row, tick)


def _has_bad_keys(session: WhatsAppSession) -> bool:
    """The broker reported a bad session (code 500), which it would go on trying with."""
    return session.status == Status.LOGGED_OUT and (session.last_error or {}).get("code") == states.BAD_SESSION.code


def _wants_qr(session: WhatsAppSession) -> bool:
    """One that somebody looks at, and the first of a pairing, which nobody may have asked for."""
    now, window = timezone.now(), timedelta(seconds=settings.WHATSAPP_QR_VIEW_SECONDS)
    if session.qr_viewed_at is not None and now - session.qr_viewed_at < window:
        return True
    new = session.state_changed_at is not None and now - session.state_changed_at < window
    return new and not shown_qr(session, now).available


def _lost_by_broker(session: WhatsAppSession, tick: Tick) -> None:
    """The broker does not know the instance: it is made again while it is wanted, else it is simply not connected."""
    if session.desired_state == "connected":
        refused = (session.last_error or {}).get("code") == states.REFUSED_BY_BROKER.code
        if session.pending_wish or not may_reconnect(session, tick.maintenance) or refused:
            return  # a wish that is pending is done when it is due; what the broker refused, it refuses again
        session = recreate(session, origin=tick.origin)
        fetch_qr(session=session, state=look(session, origin=tick.origin))
        return
    now = timezone.now()

    def decide(row: WhatsAppSession) -> Change | None:
        return None if row.desired_state == "connected" else moved(row, Trigger.STOP, now=now)

    change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.observe", origin=tick.origin,
        decide=decide, now=now,
    )  # fmt: skip


def _end_unexpected(session: WhatsAppSession, tick: Tick) -> None:
    """Nobody wants this connection: log it out."""

    def decide(row: WhatsAppSession) -> Change | None:
        if row.desired_state == "connected":
            return None
        change = moved(row, Trigger.STOP, now=timezone.now()) or Change("status")
        change.columns["pending_wish"] = Wish.LOGOUT
        return change

    changed = change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.observe", origin=tick.origin,
        decide=decide, now=timezone.now(),
    )  # fmt: skip
    if changed is not None:
        converge(session_id=session.pk, origin=tick.origin)


def _attempt(session: WhatsAppSession, tick: Tick) -> None:
    """Connect when that is wished and pending, or when the policy's next attempt is due; count it."""
    asked = session.pending_wish == Wish.CONNECT
    due = session.next_attempt_at is not None and session.next_attempt_at <= timezone.now()
    dropped = session.status == Status.CONNECTING and session.next_attempt_at is None and not asked
    if not (asked or ((due or dropped) and may_reconnect(session, tick.maintenance))):
        return
    if asked and not _is_due(session):
        return

    def decide(row: WhatsAppSession) -> Change | None:
        if row.desired_state != "connected" or row.connected:
            return None
        number = row.reconnect_attempts + 1
        pause = states.pause_before(number, most=settings.WHATSAPP_RECONNECT_MAX_SECONDS)
        columns = {"reconnect_attempts": number, "next_attempt_at": timezone.now() + timedelta(seconds=pause)}
        return Change("evidence", columns)

    changed = change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.wish", origin=tick.origin, decide=decide,
        now=timezone.now(),
    )  # fmt: skip
    if changed is None or dropped:
        return  # the first pause after a drop begins: the broker tries by itself meanwhile
    if asked:
        converge(session_id=session.pk, origin=tick.origin)
        return
    try:
        get_adapter().connect(instance=wire_name(session))
    except InstanceNotFound:
        return
    look(session, origin=tick.origin)


def _note_synced(ids: list[UUID], now: datetime) -> None:
    WhatsAppSession.objects.filter(pk__in=ids).update(last_synced_at=now)
