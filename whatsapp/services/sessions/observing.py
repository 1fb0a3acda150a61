"""What the broker says of a session becomes the row's state (spec/sessions.md sections 2, 3 and 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.db import connection

from leadengine import metrics
from leadengine.accounts.scopes import tenant_scope
from tickets.services.outbox import move_queued, release_held
from whatsapp.adapters import SessionState
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.services.journal import record_fact
from whatsapp.services.persistence import PersistenceUnavailable
from whatsapp.services.sessions import states
from whatsapp.services.sessions.changing import Change, Origin, as_error, change_session, moved
from whatsapp.services.sessions.states import Ending, Trigger

Status = WhatsAppSession.Status
Wish = WhatsAppSession.Wish
_ENDING = {Wish.LOGOUT, Wish.WIPE, Wish.DELETE}
OPERATION = "session.observe"


def observe(
    *, session_id: UUID, tenant_id: UUID, state: SessionState, began: datetime, origin: Origin, now: datetime,
    contradicted: bool = False,
) -> WhatsAppSession | None:  # fmt: skip
    """Bring the row in line with what the broker said; the changed row, None when nothing changed.

    An answer to a call that began before the row last changed is discarded. `contradicted`: a send was refused as
    offline just now. What cannot be saved goes to the journal.
    """
    try:
        return _observe(session_id, tenant_id, state, began, origin, now, contradicted)
    except PersistenceUnavailable:
        fact = {**_as_fact(state), "source": origin.source}
        record_fact(operation=OPERATION, tenant_id=tenant_id, session_id=session_id, fact=fact, at=began)
        return None


def apply_fact(
    *, tenant_id: UUID, session_id: UUID, fact: Mapping[str, Any], at: datetime
) -> Literal["applied", "superseded"]:
    """Apply a journal's line: what the broker said at that time, unless the row has changed since."""
    with tenant_scope(tenant_id):
        looked_at = WhatsAppSession.objects.filter(pk=session_id).values_list("last_probe_at", flat=True).first()
    if looked_at is not None and looked_at > at:
        return "superseded"
    origin = Origin(str(fact.get("source", "sync")))
    changed = _observe(session_id, tenant_id, _as_state(fact), at, origin, at, False)
    return "applied" if changed is not None else "superseded"


APPLIERS: dict[str, Callable[..., Literal["applied", "superseded"]]] = {OPERATION: apply_fact}


def _observe(
    session_id: UUID, tenant_id: UUID, state: SessionState, began: datetime, origin: Origin, now: datetime, doubt: bool
) -> WhatsAppSession | None:
    def decide(session: WhatsAppSession) -> Change | None:
        if session.state_changed_at is not None and session.state_changed_at > began:
            return None
        change = _contradict(session, now) if doubt and state.connected else _judge(session, state, origin, now)
        evidence: dict[str, Any] = {"last_synced_at": now, "last_probe_at": now}
        if session.broker_confirmed_at is None:
            evidence["broker_confirmed_at"] = now
        if change is not None:
            change.columns = evidence | change.columns
            return change
        WhatsAppSession.objects.for_tenant(tenant_id).filter(pk=session_id).update(**evidence)
        return None

    return change_session(
        session_id=session_id, tenant_id=tenant_id, operation=OPERATION, origin=origin, decide=decide, now=now
    )


def _judge(session: WhatsAppSession, state: SessionState, origin: Origin, now: datetime) -> Change | None:
    if session.deleted_at is not None or session.pending_wish in _ENDING:
        return None  # it is being ended: what is left of it there is no news
    if session.pending_wish == Wish.CONNECT and state.state in {"expired", "closed"}:
        return None  # the broker has not heard yet that it is wanted: why it ended before is no news, either
    match state.state:
        case "connected":
            return _open(session, state, origin, now)
        case "qrcode":
            return _scan(session, now)
        case "expired":
            return _expire(session, now)
        case "connecting" if not state.logged_out:
            return moved(session, Trigger.DROP, now=now, ending=states.LINK_LOST) if session.connected else None
        case _:
            return _close(session, state, now)


def _open(session: WhatsAppSession, state: SessionState, origin: Origin, now: datetime) -> Change | None:
    known: dict[str, Any] = {
        "phone_number": state.phone, "whatsapp_id": state.address, "profile_name": state.profile_name,
    }  # fmt: skip
    news = {name: value for name, value in known.items() if value and value != getattr(session, name)}
    if state.rate is not None and state.rate != session.capabilities.get("rate"):
        news["capabilities"] = {**session.capabilities, "rate": dict(state.rate)}
    if session.status == Status.DUPLICATE:
        return Change("status", {"pending_wish": Wish.LOGOUT})  # its logout was lost with its link
    change = None if session.connected else moved(session, Trigger.OPEN, now=now)
    if change is None:
        return _refresh(session, state, news, now)
    change.columns |= news | {"whatsapp_info": dict(state.info)}
    if session.pending_wish == Wish.CONNECT:
        change.columns["pending_wish"] = None
    if session.desired_state != "connected":
        change.columns["last_error"] = as_error(states.UNEXPECTED, now)
    lifted = state.risk_paused is False and session.risk_paused
    if lifted:
        change.columns["risk_paused"] = False
    waited_since = session.reconnect_started_at or (
        session.state_changed_at if session.status == Status.CONNECTING else None
    )
    trigger = "restart" if origin.source == "recovery" else "drop" if session.reconnect_started_at else "manual"
    phone = change.columns.get("phone_number") or session.phone_number

    def then(row: WhatsAppSession) -> None:
        if lifted:
            release_held(session_id=row.pk, now=now)
        if waited_since is not None:
            metrics.observe(metrics.reconnect_seconds.labels(trigger=trigger), (now - waited_since).total_seconds())

    change.then = then
    return _without_double(session, change, phone, now)


def _refresh(session: WhatsAppSession, state: SessionState, news: dict[str, Any], now: datetime) -> Change | None:
    """Still connected: another profile name, a pause that was lifted or begun."""
    if not session.connected:
        return None
    if state.risk_paused is False and session.risk_paused:
        return release(now)
    if (
        session.strikes
        and session.last_ack_at
        and session.last_probe_at
        and session.last_ack_at > session.last_probe_at
    ):
        news["strikes"] = 0  # something went through since
    if state.info and dict(state.info) != session.whatsapp_info:
        news["whatsapp_info"] = dict(state.info)
    if "phone_number" in news:
        return _without_double(session, Change("evidence", news), news["phone_number"], now)
    return Change("evidence", news) if news else None


def release(now: datetime) -> Change:
    """The pause is over: what was held leaves."""
    return Change("status", {"risk_paused": False}, then=lambda row: release_held(session_id=row.pk, now=now))


def _without_double(session: WhatsAppSession, change: Change, phone: str | None, now: datetime) -> Change | None:
    """One phone is connected once in a tenant (section 8, Duplicates). Other tenants are not consulted."""
    if not phone:
        return change
    with connection.cursor() as cursor:  # two that open at once are judged one after the other
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{session.tenant_id}{phone}"])
    same = WhatsAppSession.objects.for_tenant(session.tenant_id).filter(phone_number=phone, deleted_at=None)
    others = list(same.exclude(pk=session.pk).exclude(replaced_by=session.pk))
    if session.desired_state != "connected" and any(other.connected for other in others):
        return Change("status", {"pending_wish": Wish.LOGOUT, "last_error": as_error(states.UNEXPECTED, now)})
    if any(_holds(other) and other.owner_id != session.owner_id for other in others):
        duplicate = moved(session, Trigger.DUPLICATE, now=now)
        assert duplicate is not None  # noqa: S101 - any but a duplicate becomes one, and a duplicate does not open
        duplicate.columns |= {
            "duplicate_reason": "PHONE_NUMBER_ALREADY_CONNECTED", "desired_state": "disconnected",
            "pending_wish": Wish.LOGOUT, "phone_number": phone,
        }  # fmt: skip
        return duplicate
    for other in others:
        if other.owner_id == session.owner_id:
            _replace(other, session, now)
    return change


def _holds(session: WhatsAppSession) -> bool:
    """Whether a session has its phone, also while its link is being brought back."""
    return session.connected or (session.status == Status.CONNECTING and session.reconnect_started_at is not None)


def _replace(older: WhatsAppSession, newer: WhatsAppSession, now: datetime) -> None:
    """The older one ends, in this transaction; answers in its tickets leave through the newer."""

    def decide(row: WhatsAppSession) -> Change:
        change = moved(row, Trigger.STOP, now=now) or Change("status")
        change.columns |= {
            "duplicate_reason": "REPLACED_BY_NEW_CONNECTION", "replaced_by": newer.pk, "desired_state": "disconnected",
            "pending_wish": Wish.LOGOUT if row.status != Status.DISCONNECTED else row.pending_wish,
        }  # fmt: skip
        change.reason = "REPLACED_BY_NEW_CONNECTION"
        change.then = lambda row: move_queued(old_id=row.pk, new_id=newer.pk, now=now)
        return change

    change_session(
        session_id=older.pk,
        tenant_id=older.tenant_id,
        operation=OPERATION,
        origin=Origin("sync"),
        decide=decide,
        now=now,
    )


def _scan(session: WhatsAppSession, now: datetime) -> Change | None:
    if session.desired_state != "connected":
        return None
    if session.status == Status.QRCODE:
        return Change("evidence", {"pending_wish": None}) if session.pending_wish else None
    linked = session.connected or session.status == Status.ERROR or session.reconnect_started_at is not None
    if session.connected or (linked and session.connected_at is not None):
        # It was paired and is not any more: a logout that came while nobody looked.
        return _then_scan(session, states.LOGGED_OUT, now)
    if session.status == Status.ERROR:
        return moved(session, Trigger.CONNECT, now=now)  # WhatsApp answers at last; the next look finds the code
    change = moved(session, Trigger.SCAN, now=now)
    if change is not None and session.pending_wish == Wish.CONNECT:
        change.columns["pending_wish"] = None
    return change


def _then_scan(session: WhatsAppSession, ending: Ending, now: datetime) -> Change | None:
    """Two changes in one: logged out, and a new QR code is there already; the history has both."""
    change = moved(session, Trigger.LOGOUT, now=now, ending=ending)
    if change is None:
        return None
    first, old = change.status, session.status
    change.status = change.columns["status"] = Status.QRCODE
    change.reason = Trigger.SCAN.value

    def then(row: WhatsAppSession) -> None:
        SessionEvent.objects.create(
            tenant_id=row.tenant_id, session=row, old_status=old, new_status=first or "", reason=ending.code,
            source="sync", at=now - timedelta(milliseconds=1),
        )  # fmt: skip

    change.then = then
    return change


def _expire(session: WhatsAppSession, now: datetime) -> Change | None:
    if session.status == Status.QRCODE:
        change = moved(session, Trigger.GAVE_UP, now=now, ending=states.QR_EXPIRED)
        if change is not None and session.connected_at is None:
            change.columns |= {"desired_state": "disconnected", "pending_wish": None}
        return change
    if session.connected:
        return moved(session, Trigger.DROP, now=now, ending=states.LINK_LOST)
    if session.status == Status.CONNECTING and session.reconnect_attempts > states.ATTEMPTS_UNTIL_ERROR:
        return moved(session, Trigger.FAIL, now=now, ending=states.NO_ANSWER)
    return None


def _close(session: WhatsAppSession, state: SessionState, now: datetime) -> Change | None:
    """Closed, or connecting after a logout."""
    code = 401 if state.logged_out else state.close_code
    restarts = _restarts(session, now) + 1 if code == 515 else 0
    ending = states.read_ending(code, restarts=restarts)
    if ending.trigger is Trigger.LOGOUT:
        # After a logout the broker goes on to say so until somebody scans: it is news only where there was a link.
        linked = session.connected or session.reconnect_started_at is not None or session.status == Status.ERROR
        linked = linked or (ending is states.BAD_SESSION and session.status == Status.CONNECTING)
        return moved(session, Trigger.LOGOUT, now=now, ending=ending) if linked else None
    if ending.trigger is Trigger.FAIL:
        if session.status not in {Status.CONNECTING, Status.CONNECTED}:
            return None
        change = moved(session, Trigger.FAIL, now=now, ending=ending)
        if change is not None:
            change.columns |= {"next_attempt_at": None, "reconnect_started_at": None}
        return change
    if session.connected:
        change = moved(session, Trigger.DROP, now=now, ending=ending)
        if change is not None:
            pause = (
                0.0 if ending.retry == "now" else states.pause_before(1, most=settings.WHATSAPP_RECONNECT_MAX_SECONDS)
            )
            change.columns["next_attempt_at"] = now + timedelta(seconds=pause)
        return change
    if session.status == Status.CONNECTING and session.reconnect_attempts > states.ATTEMPTS_UNTIL_ERROR:
        return moved(session, Trigger.FAIL, now=now, ending=states.NO_ANSWER)
    return None


def _restarts(session: WhatsAppSession, now: datetime) -> int:
    """How often WhatsApp asked for a restart lately."""
    return SessionEvent.objects.filter(
        session=session, reason="RESTART_REQUIRED", at__gt=now - states.RESTART_WINDOW
    ).count()


def _contradict(session: WhatsAppSession, now: datetime) -> Change | None:
    """A send was refused as offline although the broker says open: the third time we do not believe it."""
    if not session.connected:
        return None
    if session.strikes + 1 < states.STRIKES:
        return Change("evidence", {"strikes": session.strikes + 1})
    change = moved(session, Trigger.DROP, now=now, ending=states.LINK_LOST)
    if change is not None:
        change.columns["strikes"] = 0
    return change


def _as_fact(state: SessionState) -> dict[str, Any]:
    return {
        "instance": state.instance, "state": state.state, "phone": state.phone, "address": state.address,
        "profileName": state.profile_name, "closeCode": state.close_code, "loggedOut": state.logged_out,
    }  # fmt: skip


def _as_state(fact: Mapping[str, Any]) -> SessionState:
    return replace(
        SessionState(str(fact["instance"]), fact["state"]),
        phone=fact.get("phone"), address=fact.get("address"), profile_name=fact.get("profileName"),
        close_code=fact.get("closeCode"), logged_out=bool(fact.get("loggedOut")),
    )  # fmt: skip
