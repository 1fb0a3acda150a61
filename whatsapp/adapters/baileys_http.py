"""The official broker: baileys behind HTTP (spec/broker.md sections 1 to 7)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from django.conf import settings

from whatsapp import broker
from whatsapp.adapters import Group, LineState, Listed, Outgoing, QrCode, Reached, Sent, SessionState
from whatsapp.adapters.baileys_events import PAGE, read_page
from whatsapp.adapters.baileys_questions import find_number, find_numbers, list_groups, read_metrics
from whatsapp.adapters.baileys_states import connection_of, read_snapshot
from whatsapp.broker_errors import (
    BrokerFailed,
    InstanceDisconnected,
    InstanceExists,
    InstanceNotFound,
    MessageRejected,
    UnsupportedOperation,
)
from whatsapp.normalizers import instance_of, normalize, split_body
from whatsapp.normalizers.values import as_dict
from whatsapp.schemas import Item

_SIGNATURES = ("x-signature", "x-signature-sha256", "x-webhook-signature", "x-webhook-signature-sha256")
_MEDIA = {"image", "video", "document", "audio"}
_FAILED_WORDS = {"ERROR", "FAILED"}
_ONE = "/instances/{id}"


class BaileysHttp:
    """whatsapp.adapters.Adapter over the official broker's HTTP."""

    capabilities: Mapping[str, Any] = {
        "types": ["text", "image", "video", "document", "audio", "poll"],
        "mediaMaxBytes": dict.fromkeys(("image", "video", "document", "audio"), 16 * 1024 * 1024),
        "groupsRead": True,
        "groupsSend": False,
        "lidRecipients": False,
        "buttons": False,
        "reactions": False,
        "window24h": False,
        "needsQr": True,
        "pairingCode": True,
        "exists": True,
        "pullEvents": True,
        "risk": True,
        "idempotent": False,
        "countries": ["55"],
        "rate": {"max": 20, "windowMs": 15_000},
    }

    def require_configured(self) -> None:
        broker.require_configured()

    # --- Sessions

    def ensure_session(self, *, instance: str) -> str:
        try:
            answer = broker.call("POST", "/instances", body={"name": instance})
        except InstanceExists:
            return instance  # the name is made from our own id: an earlier answer was lost (D40)
        created = answer.data.get("id") if isinstance(answer.data, dict) else None
        if not isinstance(created, str) or not created:
            raise BrokerFailed(http_status=answer.status, answer=answer.text)
        return created

    def connect(self, *, instance: str) -> Literal["qr", "pairing", "none"]:
        if self.status(instance=instance).connected:
            return "none"
        broker.call("GET", f"{_ONE}/qr.png", parts={"id": instance}, raw=True)  # asking for it starts a stopped socket
        return "qr"

    def status(self, *, instance: str) -> SessionState:
        """The snapshot says it. `/status` is a message's status at this broker, so its word counts only where the
        answer speaks of a connection: a broker that knows the seed's contract and has no snapshot (D15)."""
        try:
            answer = broker.call("GET", _ONE, parts={"id": instance})
        except UnsupportedOperation:
            answer = broker.call("GET", f"{_ONE}/status", parts={"id": instance})
            if connection_of(answer.data) is None:
                raise
        state = read_snapshot(instance, answer.data)
        if state is None:
            raise BrokerFailed(http_status=answer.status, answer=answer.text)
        return state

    def logout(self, *, instance: str) -> None:
        _unless_done("POST", f"{_ONE}/logout", instance)

    def delete(self, *, instance: str) -> None:
        _unless_done("DELETE", _ONE, instance)

    def list_own(self, *, instances: Collection[str]) -> list[SessionState]:
        return [state for state in self.list_all() if state.instance in instances]

    def list_all(self) -> list[SessionState]:
        answer = broker.call("GET", "/instances")
        if not isinstance(answer.data, list):
            raise BrokerFailed(http_status=answer.status, answer=answer.text)
        named = [row for row in answer.data if isinstance(row, dict) and isinstance(row.get("id"), str)]
        states = [read_snapshot(row["id"], row) for row in named]
        return [state for state in states if state is not None]

    def overview(self) -> dict[str, LineState]:
        answer = broker.call("GET", "/health")
        rows = answer.data.get("instances") if isinstance(answer.data, dict) else None
        if not isinstance(rows, list):  # an older broker's health knows only itself
            return {state.instance: state.state for state in self.list_all()}
        named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
        states = {row["id"]: connection_of(row) for row in named}
        return {instance: state for instance, state in states.items() if state is not None}

    def watch(self) -> Iterator[str]:
        for line in broker.stream("/instances/events"):
            if not line.startswith(b"data:"):
                continue
            news = as_dict(_json_of(line.removeprefix(b"data:")))
            instance = as_dict(news.get("instance")).get("id")
            yield instance if isinstance(instance, str) else ""

    def qr(self, *, instance: str) -> QrCode | None:
        answer = broker.call("GET", f"{_ONE}/qr.png", parts={"id": instance}, raw=True)
        return QrCode(picture=answer.data) if answer.status == 200 and answer.data else None

    def pair(self, *, instance: str, phone: str) -> str:
        answer = broker.call("POST", f"{_ONE}/pair", parts={"id": instance}, body={"phoneNumber": phone.lstrip("+")})
        code = answer.data.get("pairingCode") if isinstance(answer.data, dict) else None
        if not isinstance(code, str) or not code:
            raise BrokerFailed(http_status=answer.status, answer=answer.text)
        return code

    def wipe(self, *, instance: str) -> None:
        broker.call("POST", f"{_ONE}/session/wipe", parts={"id": instance})

    def release_risk(self, *, instance: str) -> None:
        # Resuming alone pauses again at the next stranger: the guard's threshold has to go up first.
        broker.call("POST", f"{_ONE}/risk", parts={"id": instance}, body={"threshold": 1})
        broker.call("POST", f"{_ONE}/risk/resume", parts={"id": instance})

    # --- Messages

    def send(self, message: Outgoing) -> Sent:
        route, body = _route(message)
        answer = broker.call(
            "POST", route, parts={"id": message.instance}, body=body,
            headers={"Idempotency-Key": str(message.message_id), "X-Request-Id": message.attempt_id.hex},
            timeout_ms=settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS,
        )  # fmt: skip
        return _read_sent(answer)

    def exists(self, *, instance: str, to: str) -> str | None:
        return find_number(instance, to).address

    def find(self, *, instance: str, numbers: Sequence[str]) -> list[Reached]:
        return find_numbers(instance, numbers)

    def groups(self, *, instance: str) -> list[Group]:
        return list_groups(instance)

    def metrics(self, *, instance: str, since: datetime, until: datetime) -> dict[str, Any]:
        return read_metrics(instance, since, until)

    def pull_events(self, *, instance: str, after: str | None, now: datetime) -> Sequence[Listed]:
        params = {"limit": PAGE, **({"after": after} if after else {})}
        answer = broker.call("GET", f"{_ONE}/events", parts={"id": instance}, params=params)
        events = answer.data.get("events") if isinstance(answer.data, dict) else None
        if not isinstance(events, list):
            raise BrokerFailed(http_status=answer.status, answer=answer.text)
        return read_page(instance, events, now)

    def ack_events(self, *, instance: str, ids: Sequence[str]) -> None:
        broker.call("POST", f"{_ONE}/events/ack", parts={"id": instance}, body={"ids": list(ids)})

    # --- Inbound

    def verify_webhook(self, raw: bytes, headers: Mapping[str, str]) -> bool:
        """HMAC-SHA256 of the exact bytes: every header that is present must be right (D6)."""
        sent = [headers[name] for name in _SIGNATURES if headers.get(name)]
        if not sent:
            return not settings.WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE
        secrets: list[str] = settings.WHATSAPP_WEBHOOK_HMAC_SECRET
        right = [hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest().encode() for secret in secrets]
        bare = [one.strip().removeprefix("sha256=").lower().encode("utf-8", "replace") for one in sent]
        return all([any([hmac.compare_digest(one, value) for value in right]) for one in bare])  # noqa: C419

    def split(self, body: Any) -> list[Any]:
        return split_body(body)

    def instance_of(self, entry: Any) -> str | None:
        return instance_of(entry, settings.WHATSAPP_DEFAULT_INSTANCE_ID or None)

    def parse(self, entry: Any, *, received_at: datetime) -> list[Item]:
        return normalize(
            entry,
            received_at=received_at,
            raw_fallback=settings.WHATSAPP_RAW_FALLBACK_ENABLED,
            default_instance_id=settings.WHATSAPP_DEFAULT_INSTANCE_ID or None,
        )


def _json_of(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _unless_done(method: str, route: str, instance: str) -> None:
    try:
        broker.call(method, route, parts={"id": instance})
    except (InstanceDisconnected, InstanceNotFound):
        return  # this broker refuses what has been done already


def _route(message: Outgoing) -> tuple[str, dict[str, Any]]:
    """The route template and the body of a send. Raises: UnsupportedOperation for a type that no route takes."""
    payload, kind = message.payload, message.type
    seed = {
        "sessionId": str(message.session_id),
        "instanceId": message.instance,
        "to": message.to,
        "type": kind,
        "externalId": message.reference,
        "metadata": payload.get("metadata"),
    }
    text = payload.get("text") or payload.get("caption") or ""
    if settings.WHATSAPP_BROKER_SEND_ROUTE == "send-text":
        kept = ("text", "previewUrl", "template", "location", "contact", "contacts", "poll", "mimeType", "fileName")
        body = {**seed, "message": text, "mediaUrl": message.media_url, "caption": payload.get("caption")}
        return f"{_ONE}/send-text", _filled({**body, **{name: payload.get(name) for name in kept}})
    if kind == "text":
        return f"{_ONE}/send-text", _filled({**seed, "message": text, "text": text})
    if kind in _MEDIA:
        media = {
            "url": message.media_url,
            "mimetype": payload.get("mimeType"),
            "fileName": payload.get("fileName"),
            "ptt": payload.get("voice") or None,
        }
        return f"{_ONE}/send-media", _filled({**seed, "caption": payload.get("caption"), "media": _filled(media)})
    if kind == "poll":
        poll = payload["poll"]
        many = len(poll["options"]) if poll.get("allowMultipleAnswers") else 1
        body = {**seed, "question": poll["question"], "options": poll["options"], "selectableCount": many}
        return f"{_ONE}/send-poll", _filled(body)
    raise UnsupportedOperation


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _read_sent(answer: broker.Answer) -> Sent:
    """What a 2xx says: an id in `id`, `messageId` or `key.id`, or none; state 0 or ERROR means it failed (D35)."""
    data = answer.data
    if not isinstance(data, dict):
        raise BrokerFailed(http_status=answer.status, answer=answer.text)
    key = data.get("key")
    found = data.get("id") or data.get("messageId") or (key.get("id") if isinstance(key, dict) else None)
    external_id = str(found)[:255] if found else None
    state = data.get("status")
    if (isinstance(state, str) and state.upper() in _FAILED_WORDS) or (type(state) is int and state == 0):
        raise MessageRejected(http_status=answer.status, answer=answer.text, external_id=external_id)
    return Sent(external_id, answer.status, answer.text)
