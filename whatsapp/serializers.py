"""How sessions and webhook events look from outside. Never a key, a QR code or a stored body that was not asked for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import RootModel

from leadengine.accounts.api.schema import ListMeta, Shape
from tickets.services.outbox.circuit import CLOSED, Circuit, read_circuits
from tickets.services.shapes import iso
from whatsapp.adapters import SessionState, get_adapter
from whatsapp.models import SessionEvent, WebhookEvent, WebhookItem, WhatsAppSession
from whatsapp.services.lines import circuit_json, evidence_of
from whatsapp.services.sessions.qr import QrShown
from whatsapp.services.sessions.states import REFUSED_BY_BROKER

Circuits = Mapping[UUID, Circuit]  # of those sessions whose circuit is not closed
_Status = WhatsAppSession.Status
# Native state, what people read, and the colour it has (spec/sessions.md section 2).
_STATES = {
    _Status.DISCONNECTED: ("disconnected", "Desconectada", "neutral"),
    _Status.CONNECTING: ("connecting", "Conectando", "info"),
    _Status.QRCODE: ("qr_required", "Aguardando QR code", "warning"),
    _Status.CONNECTED: ("connected", "Conectada", "success"),
    _Status.ERROR: ("error", "Com erro", "danger"),
    _Status.DUPLICATE: ("disconnected", "Número conectado em outro lugar", "warning"),
    _Status.LOGGED_OUT: ("disconnected", "Sessão encerrada no aparelho", "danger"),
}
# Native states that are one of these, seen closer.
_CLOSER = {"pending": _Status.CONNECTING, "reconnecting": _Status.CONNECTING, "failed": _Status.ERROR}


class CircuitStateShape(Shape):
    """The breaker of a connection: closed, open, or half_open, when one message tries."""

    state: str


class CircuitShape(CircuitStateShape):
    """`retryAt` is when an open one becomes half_open."""

    retry_at: datetime | None


class LineShape(Shape):
    """What every agent may know of a line: whether an answer can leave."""

    id: UUID
    name: str
    status: str
    connected: bool
    circuit: CircuitStateShape


class StatusInfoShape(Shape):
    """`unexpected` stands there, true, on a connection that the broker opened and nobody wants."""

    label: str
    variant: str
    unexpected: bool | None = None


class EvidenceShape(Shape):
    last_inbound_at: datetime | None
    last_ack_at: datetime | None
    last_probe_at: datetime | None
    last_synced_at: datetime | None
    strikes: int
    stale: bool
    silent: bool


class ReconnectShape(Shape):
    attempts: int
    started_at: datetime | None
    next_attempt_at: datetime | None


class InstanceShape(Shape):
    """`fields=basic` leaves out what is null here by default. `pending`: a wish that the broker has still to do."""

    id: UUID
    instance_id: str
    broker_id: str | None
    name: str
    owner_id: UUID
    status: str
    connected: bool
    status_info: StatusInfoShape
    pending: bool
    phone_number: str | None
    version: int
    desired_state: str | None = None
    auto_reconnect: bool | None = None
    profile_name: str | None = None
    has_qr: bool | None = None
    qr_expires_at: datetime | None = None
    evidence: EvidenceShape | None = None
    reauth_reason: str | None = None
    duplicate_reason: str | None = None
    last_error: dict[str, Any] | None = None
    reconnect: ReconnectShape | None = None
    circuit: CircuitShape | None = None
    risk_paused: bool | None = None
    capabilities: dict[str, Any] | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    last_activity: datetime | None = None


class UnclaimedShape(Shape):
    """An instance at the broker that no connection of ours names."""

    broker_id: str
    status: str
    connected: bool
    phone_number: str | None
    profile_name: str | None


class ListedInstanceShape(RootModel[InstanceShape | UnclaimedShape]):
    """`UnclaimedShape` only where `unclaimed=1` asked for them."""


class WarningShape(Shape):
    """What a refresh could not do; `instanceId` null: with any of them."""

    code: str
    message: str
    instance_id: str | None


class InstanceListMeta(ListMeta):
    """`synced`: the list was compared with the broker for this answer; a broker that is away sets `refreshFailed`."""

    synced: bool
    refresh_failed: bool
    warnings: list[WarningShape]


class QrShape(Shape):
    """`qrCode` is a PNG data URL, `raw` the string in it; `reason` (UNAVAILABLE, EXPIRED) says why there is none."""

    available: bool
    qr_code: str | None
    raw: str | None
    qr_expires_at: datetime | None
    reason: str | None


class InstanceStatusShape(Shape):
    """`stale`: the broker has not confirmed this lately."""

    connected: bool
    status: str
    status_info: StatusInfoShape
    qr: QrShape
    stale: bool
    instance: InstanceShape


class PairShape(Shape):
    """`pairingCode` is null where the line is open already, and where a refresh renewed the QR code instead."""

    pairing_code: str | None
    connected: bool
    instance: InstanceShape


class DisconnectShape(Shape):
    disconnected: bool
    pending: bool
    instance: InstanceShape


class DeletedShape(Shape):
    """`brokerStatus` is deleted, not_found or pending."""

    id: UUID
    deleted_at: datetime
    broker_status: str


class SessionEventShape(Shape):
    """`source` is user, sync, sse, recovery, admin or api; the first status of a connection follows an empty one."""

    id: UUID
    old_status: str
    new_status: str
    reason: str
    source: str
    actor_id: UUID | None
    at: datetime


class WebhookEventShape(Shape):
    id: UUID
    session_id: UUID | None
    instance_id: str
    kind: str
    source: str
    status: str
    reason: str
    queued: int
    attempts: int
    error: str
    request_id: str
    received_at: datetime
    processed_at: datetime | None


class WebhookItemShape(Shape):
    """`canonical`: what the normaliser makes of it today; null for what is no message and for bodies that are gone."""

    index: int
    kind: str
    external_id: str | None
    fate: str
    reason: str
    message_id: UUID | None
    attempts: int
    error: str
    canonical: dict[str, Any] | None


class WebhookEventDetailShape(WebhookEventShape):
    items: list[WebhookItemShape]
    body: str | None = None


def line_json(session: WhatsAppSession, circuits: Circuits) -> dict[str, Any]:
    """A line, for any agent of the tenant."""
    return {
        "id": str(session.pk),
        "name": session.session_name,
        "status": _state_of(session)[0],
        "connected": session.connected,
        "circuit": {"state": circuits.get(session.pk, CLOSED).state},
    }


def instance_json(
    session: WhatsAppSession, *, full: bool, now: datetime, circuits: Circuits | None = None
) -> dict[str, Any]:
    """A connection, for its owner and supervisors. `circuits` spares a list the look at each."""
    status, label, variant = _state_of(session)
    unexpected = is_unexpected(session)
    shown: dict[str, Any] = {
        "id": str(session.pk),
        "instanceId": session.connection_id,
        "brokerId": session.broker_instance_id,
        "name": session.session_name,
        "ownerId": str(session.owner_id),
        "status": status,
        "connected": session.connected,
        "statusInfo": {"label": label, "variant": variant, **({"unexpected": True} if unexpected else {})},
        "pending": session.pending_wish is not None,
        "phoneNumber": session.phone_number,
        "version": session.version,
    }
    return shown | _rest_of(session, now, read_circuits(now=now) if circuits is None else circuits) if full else shown


def statuses_of(words: Collection[str]) -> list[str]:
    """The states of the database that words name: its own, or native ones."""
    named = {_CLOSER.get(word, word) for word in words}
    return [status for status, (native, _, _) in _STATES.items() if status in named or native in named]


def status_json(session: WhatsAppSession, shown: QrShown, *, stale: bool, now: datetime) -> dict[str, Any]:
    """How a connection is, and what may be scanned; `stale` when the broker could not be asked just now."""
    instance = instance_json(session, full=True, now=now)
    instance["evidence"]["stale"] |= stale
    return {
        "connected": session.connected,
        "status": instance["status"],
        "statusInfo": instance["statusInfo"],
        "qr": {
            "available": shown.available,
            "qrCode": shown.picture,
            "raw": shown.raw,
            "qrExpiresAt": iso(shown.expires_at),
            "reason": shown.reason,
        },
        "stale": instance["evidence"]["stale"],
        "instance": instance,
    }


def session_event_json(event: SessionEvent) -> dict[str, Any]:
    """A line of a connection's history."""
    return {
        "id": str(event.pk),
        "oldStatus": event.old_status,
        "newStatus": event.new_status,
        "reason": event.reason,
        "source": event.source,
        "actorId": str(event.actor_id) if event.actor_id else None,
        "at": iso(event.at),
    }


def unclaimed_json(state: SessionState) -> dict[str, Any]:
    """An instance that we do not know, in the broker's own words."""
    return {
        "brokerId": state.instance,
        "status": state.state,
        "connected": state.connected,
        "phoneNumber": state.phone,
        "profileName": state.profile_name,
    }


def is_unexpected(session: WhatsAppSession) -> bool:
    """Whether the broker opened a connection that nobody wants (spec/sessions.md section 2)."""
    return session.connected and session.desired_state != "connected"


def event_json(event: WebhookEvent) -> dict[str, Any]:
    """A line of the ledger."""
    return {
        "id": str(event.pk),
        "sessionId": str(event.session_id) if event.session_id else None,
        "instanceId": event.instance_id,
        "kind": event.kind,
        "source": event.source,
        "status": event.status,
        "reason": event.reason,
        "queued": event.queued,
        "attempts": event.attempts,
        "error": event.error,
        "requestId": event.request_id,
        "receivedAt": iso(event.received_at),
        "processedAt": iso(event.processed_at),
    }


def event_detail_json(event: WebhookEvent, *, with_body: bool) -> dict[str, Any]:
    """A line of the ledger with its items, and the body as it came when that was asked for."""
    text = zlib.decompress(bytes(event.body)).decode("utf-8-sig", "replace") if event.body else None
    canonical = _canonical(event, text)
    items = [_item_json(item, canonical.get(item.index)) for item in event.items.order_by("index")]
    return {**event_json(event), "items": items, **({"body": text} if with_body else {})}


def _state_of(session: WhatsAppSession) -> tuple[str, str, str]:
    if is_unexpected(session):
        return "connected", "Conectada sem pedido", "warning"
    if session.status == _Status.ERROR and (session.last_error or {}).get("code") == REFUSED_BY_BROKER.code:
        return "failed", "Criação recusada", "danger"
    if session.status == _Status.CONNECTING and session.reconnect_started_at:
        return "reconnecting", "Reconectando", "warning"
    if session.status == _Status.CONNECTING and session.broker_confirmed_at is None:
        return "pending", "Criando", "info"
    return _STATES[_Status(session.status)]


def _rest_of(session: WhatsAppSession, now: datetime, circuits: Circuits) -> dict[str, Any]:
    has_qr = bool(session.qr_code) and (session.qr_expires_at is None or session.qr_expires_at > now)
    return {
        "desiredState": session.desired_state,
        "autoReconnect": session.auto_reconnect,
        "profileName": session.profile_name,
        "hasQr": has_qr,
        "qrExpiresAt": iso(session.qr_expires_at) if has_qr else None,
        "evidence": evidence_of(session, now),
        "reauthReason": session.reauth_reason,
        "duplicateReason": session.duplicate_reason,
        "lastError": session.last_error,
        "reconnect": {
            "attempts": session.reconnect_attempts,
            "startedAt": iso(session.reconnect_started_at),
            "nextAttemptAt": iso(session.next_attempt_at),
        },
        "circuit": circuit_json(circuits.get(session.pk, CLOSED)),
        "riskPaused": session.risk_paused,
        "capabilities": session.capabilities,
        "createdAt": iso(session.created_at),
        "updatedAt": iso(session.updated_at),
        "lastActivity": iso(session.last_activity_at),
    }


def _canonical(event: WebhookEvent, text: str | None) -> dict[int, dict[str, Any] | None]:
    """The canonical event of each item; a rejected body is no JSON."""
    if text is None or event.status == WebhookEvent.Status.REJECTED:
        return {}
    items = get_adapter().parse(json.loads(text), received_at=event.received_at)
    return {index: _encodable(item.canonical) for index, item in enumerate(items)}


def _encodable(canonical: Any) -> Any:
    """A lone surrogate of the broker's cannot be written as UTF-8."""
    return json.loads(json.dumps(canonical, ensure_ascii=False).encode("utf-8", "replace"))


def _item_json(item: WebhookItem, canonical: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "index": item.index,
        "kind": item.kind,
        "externalId": item.external_id,
        "fate": item.fate,
        "reason": item.reason,
        "messageId": str(item.message_id) if item.message_id else None,
        "attempts": item.attempts,
        "error": item.error,
        "canonical": canonical,
    }
