"""Changing a session's row: conditionally on its version, with its history, its event and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import F

from leadengine import metrics
from leadengine.accounts.changes import note_change
from leadengine.accounts.scopes import tenant_scope
from tickets.services.outbox import wake_session
from whatsapp.events import Change as Kind
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.services.lines import announce_sessions, look_at_circuits
from whatsapp.services.persistence import Scope, persist
from whatsapp.services.sessions.states import Ending, Trigger, next_status

_TRIES = 10
_NO_QR: dict[str, Any] = {"qr_code": None, "qr_raw": None, "qr_expires_at": None}
_CALM: dict[str, Any] = {"reconnect_attempts": 0, "reconnect_started_at": None, "next_attempt_at": None, "strikes": 0}


@dataclass(slots=True)
class Change:
    """What becomes of a row: its columns, and a status if that changes. `kind` is what the event calls it.

    `then` runs in the same transaction once the row is written.
    """

    kind: Kind
    columns: dict[str, Any] = field(default_factory=dict)
    status: str | None = None
    reason: str = ""
    then: Callable[[WhatsAppSession], None] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Who brought a change about: `source` is user, api, admin, sync, sse or recovery."""

    source: str
    actor_id: UUID | None = None


def change_session(
    *,
    session_id: UUID,
    tenant_id: UUID,
    operation: str,
    origin: Origin,
    decide: Callable[[WhatsAppSession], Change | None],
    now: datetime,
    scope: Scope | None = None,
) -> WhatsAppSession | None:
    """Write what `decide` makes of the row as it is now; None when it is not there, or nothing is to change.

    The update is conditional on the version that `decide` saw: a lost race is decided anew.
    Raises: PersistenceUnavailable, and what `decide` raises.
    """

    def write() -> WhatsAppSession | None:
        rows = WhatsAppSession.objects.for_tenant(tenant_id).filter(pk=session_id)
        for _ in range(_TRIES):
            session: WhatsAppSession | None = rows.first()
            change = decide(session) if session is not None else None
            if session is None or change is None:
                return None
            if _save(rows, session, change, origin, now):
                return session
        raise RuntimeError(f"The session {session_id} changed {_TRIES} times while it was being changed.")

    if not connection.in_atomic_block:
        look_at_circuits(now=now)
    return persist(operation, write, scope=scope or partial(tenant_scope, tenant_id))


def moved(
    session: WhatsAppSession, trigger: Trigger, *, now: datetime, ending: Ending | None = None, kind: Kind = "status"
) -> Change | None:
    """The change that a trigger brings; None when the table has none, which is counted."""
    status = next_status(session.status, trigger, paired=session.connected_at is not None)
    if status is None:
        if trigger not in {Trigger.CONNECT, Trigger.STOP, Trigger.LOGOUT, Trigger.OPEN, Trigger.DUPLICATE}:
            metrics.session_transitions.labels(result="refused").inc()
        return None
    columns: dict[str, Any] = {"status": status, "state_changed_at": now}
    if session.status == WhatsAppSession.Status.CONNECTED:
        columns["disconnected_at"] = now
    if ending is not None:
        columns["last_error"] = as_error(ending, now)
        if ending.reauth_reason:
            columns["reauth_reason"] = ending.reauth_reason
    if trigger is Trigger.OPEN:
        columns |= {"connected_at": now, "last_error": None, "reauth_reason": None, "duplicate_reason": None}
        columns |= _NO_QR | _CALM
    elif trigger is Trigger.DROP:
        columns["reconnect_started_at"] = now
    elif trigger is Trigger.SCAN:
        columns |= _CALM  # a person is waited for: no attempt of ours would help
    elif trigger in {Trigger.STOP, Trigger.LOGOUT, Trigger.GAVE_UP, Trigger.DUPLICATE}:
        columns |= _NO_QR | _CALM
        if trigger is Trigger.STOP:
            columns |= {"last_error": None, "reauth_reason": None}
    return Change(kind, columns, status, reason=ending.code if ending else trigger.value)


def as_error(ending: Ending, now: datetime) -> dict[str, Any]:
    """`lastError` of the API: code, sentence, what to do, when."""
    at = now.isoformat().replace("+00:00", "Z")
    return {"code": ending.code, "message": ending.message, "action": ending.action, "at": at}


def record(session: WhatsAppSession, *, old: str, reason: str, origin: Origin, now: datetime) -> None:
    """A line in the session's history."""
    SessionEvent.objects.create(
        tenant_id=session.tenant_id, session=session, old_status=old, new_status=session.status, reason=reason[:200],
        source=origin.source, actor_id=origin.actor_id, at=now,
    )  # fmt: skip


def _save(rows: Any, session: WhatsAppSession, change: Change, origin: Origin, now: datetime) -> bool:
    if not rows.filter(version=session.version).update(version=F("version") + 1, **change.columns):
        return False
    old = session.status
    for name, value in change.columns.items():
        setattr(session, name, value)
    session.version += 1
    if change.status is not None:
        record(session, old=old, reason=change.reason, origin=origin, now=now)
        metrics.count(metrics.session_transitions.labels(result="made"))
        if session.connected:
            wake_session(session_id=session.pk, now=now)
    if change.then is not None:
        change.then(session)
    if change.kind in {"created", "settings", "deleted"}:
        note_change(f"session {change.kind}")
    announce_sessions(tenant_id=session.tenant_id, ids=[session.pk], change=change.kind, now=now)
    return True
