"""Sessions as the rest of the product needs them while it sends: their state, what they can do, a risk pause."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from leadengine.accounts.scopes import current_scope, service_scope
from leadengine.celery import app, publish
from leadengine.realtime.broadcast import broadcast, offer
from leadengine.realtime.events import Facets
from leadengine.redis import UNAVAILABLE, ask, client
from leadengine.sql import loads
from tickets.services.outbox.circuit import CLOSED, Circuit, read_circuits
from tickets.services.shapes import iso
from tickets.transports import Capabilities, Line
from whatsapp.adapters import get_adapter
from whatsapp.events import Change, SessionUpdated
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import persist

STALE_AFTER = timedelta(seconds=30)
SEEN_FOR = timedelta(minutes=1)  # a look at the circuits
EVENT_PAUSE_MS = 1000
ANNOUNCE_TASK = "whatsapp.announce_sessions"  # by name: the task stands above the services it calls
_LATE = "session-news-late"
_BY_ID = "id = %(word)s"  # by the index: a sender reads its line at every turn
_BY_NAME = "(id::text = %(word)s OR connection_id = %(word)s OR broker_instance_id = %(word)s)"
_seen: tuple[datetime, Mapping[UUID, Circuit]] = (datetime.min.replace(tzinfo=UTC), {})  # by this process


def find_line(reference: UUID | str) -> Line | None:
    """A session of the scope's tenant by id, connection_id or broker_instance_id; None when there is none.

    An agent may send through a line of another owner, so this much of it is read for everyone of the tenant.
    """
    tenant_id = current_scope().tenant_id or None
    rule = _BY_ID if isinstance(reference, UUID) else _BY_NAME
    with across_owners(), connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT id, tenant_id, connection_id, coalesce(broker_instance_id, connection_id), status,
                   default_queue_id, replaced_by, capabilities, session_name, disconnected_at,
                   connected_at
               FROM whatsapp_sessions
               WHERE {rule} AND (deleted_at IS NULL OR replaced_by IS NOT NULL)
                   AND tenant_id = coalesce(%(tenant)s, tenant_id)
               ORDER BY id::text = %(word)s DESC, connection_id = %(word)s DESC LIMIT 1""",  # noqa: S608 - ours
            {"word": str(reference), "tenant": tenant_id},
        )
        row = cursor.fetchone()
    if row is None:
        return None
    session_id, owner_tenant, name, wire_name, status, queue_id, replaced_by, stored, title, since, back = row
    return Line(
        id=session_id, tenant_id=owner_tenant, name=name, reference=wire_name, status=status,
        connected=status == WhatsAppSession.Status.CONNECTED, default_queue_id=queue_id, replaced_by=replaced_by,
        capabilities=capabilities_of(loads(stored)), title=title, since=since,
        connected_at=back,
    )  # fmt: skip


def capabilities_of(stored: dict[str, Any] | None) -> Capabilities:
    """What a session can do: what was learned of it, else what its broker can (spec/broker.md section 9)."""
    known = {**get_adapter().capabilities, **(stored or {})}
    return Capabilities(
        types=frozenset(known["types"]),
        media_max_bytes=known["mediaMaxBytes"],
        groups_send=known["groupsSend"],
        lid_recipients=known["lidRecipients"],
        exists=known["exists"],
        countries=tuple(known["countries"]),
        rate=(rate["max"], rate["windowMs"] / 1000) if (rate := known.get("rate")) else None,
    )


def flag_risk(*, tenant_id: UUID, session_id: UUID, now: datetime) -> None:
    """Mark a session as paused by the broker's risk guard, and tell its owner and the supervisors, once."""
    changed = WhatsAppSession.objects.for_tenant(tenant_id).filter(pk=session_id, risk_paused=False)
    if persist("session.observe", lambda: changed.update(risk_paused=True)):
        announce_sessions(tenant_id=tenant_id, ids=[session_id], change="status", now=now)


def announce_sessions(*, tenant_id: UUID, ids: Collection[UUID], change: Change, now: datetime) -> None:
    """Tell how sessions are now to their owners and the supervisors, after the commit.

    At most one event a second for each session: what comes sooner is told at the end of that second, as it is then.
    Outlets are told in the transaction, with the circuits of `look_at_circuits`: its locks shall not wait for Redis.
    """
    if not ids:
        return
    for session in WhatsAppSession.objects.for_tenant(tenant_id).filter(pk__in=ids):
        event = _event(session, change, now)
        offer(event, partial(_recall, event))  # an outlet gets every change; the sockets one a second
        transaction.on_commit(partial(_tell, event, session.owner_id))


def look_at_circuits(*, now: datetime) -> None:
    """Read the circuits for what this process announces next. Call it before rows are locked."""
    global _seen
    _seen = (now, read_circuits(now=now))


def announce_late(*, now: datetime) -> int:
    """Tell what came too soon after another event, once its second is over; returns how many sessions that were."""
    try:
        waiting: set[bytes] = client().smembers(_LATE)  # type: ignore[assignment]
        late = [UUID(raw.decode()) for raw in waiting if not client().exists(_told(raw.decode()))]
        if late:
            client().srem(_LATE, *map(str, late))
    except UNAVAILABLE:
        return 0
    with service_scope("late news of sessions"):
        for session in WhatsAppSession.objects.filter(pk__in=late):
            transaction.on_commit(partial(_tell, _event(session, "status", now), session.owner_id))
    return len(late)


def evidence_of(session: WhatsAppSession, now: datetime) -> dict[str, Any]:
    """Signs of life, not a flag (spec/sessions.md section 2)."""
    synced = session.last_synced_at
    return {
        "lastInboundAt": iso(session.last_inbound_at),
        "lastAckAt": iso(session.last_ack_at),
        "lastProbeAt": iso(session.last_probe_at),
        "lastSyncedAt": iso(synced),
        "strikes": session.strikes,
        "stale": synced is None or now - synced > STALE_AFTER,
        "silent": session.connected and session.silent_since is not None,
    }


def circuit_json(circuit: Circuit) -> dict[str, Any]:
    """A session's breaker as everybody reads it: `retryAt` is when an open one lets a message try."""
    return {"state": circuit.state, "retryAt": iso(circuit.retry_at)}


def across_owners() -> AbstractContextManager[None]:
    """Widen an agent's scope for what concerns the line of another owner (spec/sessions.md section 5)."""
    return service_scope("line of another owner") if current_scope().session_scope == "owner" else nullcontext()


def _tell(event: SessionUpdated, owner_id: UUID) -> None:
    key = str(event.session_id)
    try:
        if not ask(lambda server: server.set(_told(key), 1, nx=True, px=EVENT_PAUSE_MS)):
            ask(lambda server: server.sadd(_LATE, key))
            publish(app.signature(ANNOUNCE_TASK), countdown=EVENT_PAUSE_MS / 1000)
            return
    except UNAVAILABLE:
        return  # nobody could hear it, either
    broadcast(_complete(event), Facets(owner_id=owner_id), offered=True)


def _complete(event: SessionUpdated) -> SessionUpdated:
    look_at_circuits(now=event.at)
    return _recall(event)


def _recall(event: SessionUpdated) -> SessionUpdated:
    """The event with the circuit as it was seen a moment ago, closed when nobody has looked."""
    at, circuits = _seen
    circuit = circuits.get(event.session_id, CLOSED) if event.at - at < SEEN_FOR else CLOSED
    if circuit.retry_at is not None and circuit.retry_at <= event.at:
        circuit = Circuit("half_open")
    return event.model_copy(update={"circuit": circuit_json(circuit)})


def _told(session_id: str) -> str:
    return f"session-told:{session_id}"


def _event(session: WhatsAppSession, change: Change, now: datetime) -> SessionUpdated:
    return SessionUpdated(
        tenant_id=session.tenant_id, at=now, session_id=session.pk, connection_id=session.connection_id,
        name=session.session_name, status=session.status, connected=session.connected,
        desired_state=session.desired_state, version=session.version, change=change, has_qr=bool(session.qr_code),
        qr_version=session.qr_version, qr_expires_at=session.qr_expires_at, reauth_reason=session.reauth_reason,
        duplicate_reason=session.duplicate_reason, last_error=session.last_error, evidence=evidence_of(session, now),
        circuit=circuit_json(CLOSED), risk_paused=session.risk_paused,
        changed_at=session.state_changed_at,
    )  # fmt: skip
