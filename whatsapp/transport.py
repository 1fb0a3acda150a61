"""The WhatsApp channel as tickets see it: who can be written to, by which route, and what a failure means."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from leadengine.errors import DomainError, NotConfigured
from tickets.transports import (
    Capabilities,
    Identity,
    Line,
    LineOffline,
    OperatorNeeded,
    OutcomeUnknown,
    RateLimited,
    Refused,
    Retryable,
    SendFailure,
    SendOrder,
    Sent,
)
from whatsapp import broker
from whatsapp.addresses import PHONE_SERVER, parse_jid
from whatsapp.services.atendimentos import follow_ticket
from whatsapp.services.episodes import open_episode
from whatsapp.services.lines import across_owners, capabilities_of, find_line, flag_risk
from whatsapp.services.parking import apply_parked
from whatsapp.services.queue_missing import release_waiting

_MEDIA = {"image", "video", "document", "audio"}
_FAILED_WORDS = {"ERROR", "FAILED"}
_LOCAL_DIGITS = (10, 11)  # of a Brazilian number, area code included


class UnsupportedRecipient(DomainError):
    """O serviço do WhatsApp não alcança números deste país."""

    code = "UNSUPPORTED_RECIPIENT"
    status = 422


class RecipientNotAddressable(DomainError):
    """Este contato não tem número: o serviço do WhatsApp não consegue responder a ele."""

    code = "RECIPIENT_NOT_ADDRESSABLE"
    status = 422


class GroupsNotSupported(DomainError):
    """O serviço do WhatsApp não envia mensagens a grupos."""

    code = "GROUPS_NOT_SUPPORTED"
    status = 422


class BrokerTransport:
    """tickets.transports.Transport over the configured broker."""

    def require_configured(self) -> None:
        broker.require_configured()

    def line(self, reference: UUID | str) -> Line | None:
        return find_line(reference)

    def capabilities(self, session_id: UUID) -> Capabilities:
        line = find_line(session_id)
        return line.capabilities if line else capabilities_of(None)

    def check_recipient(self, *, line: Line, identities: Sequence[Identity], is_group: bool) -> None:
        choose_address(line.capabilities, identities, is_group=is_group)

    def send(self, order: SendOrder) -> Sent:
        """Send by the route of the payload's type. A first message to a number is asked for before it is written to."""
        capabilities = order.line.capabilities
        if order.payload["type"] not in capabilities.types:
            raise Refused(broker.UnsupportedOperation.code, broker.UnsupportedOperation().message)
        try:
            broker.require_configured()
            to = choose_address(capabilities, order.identities, is_group=order.is_group)
        except NotConfigured as error:
            raise Retryable(error.code, error.message) from error
        except DomainError as error:
            raise Refused(error.code, error.message) from error
        learned: tuple[Identity, ...] = ()
        if capabilities.exists and not order.is_group and not any(kind == "wa_address" for kind, _ in order.identities):
            to = _ask_address(order.line, to)
            learned = (("wa_address", to),)
        route, body = _route(order, to)
        headers = {"Idempotency-Key": str(order.message_id), "X-Request-Id": order.attempt_id.hex}
        try:
            answer = broker.call(
                "POST", route, parts={"id": order.line.reference}, body=body, headers=headers,
                timeout_ms=settings.WHATSAPP_BROKER_SEND_TIMEOUT_MS,
            )  # fmt: skip
        except broker.BrokerError as error:
            raise _failure(error) from error
        return _read_sent(answer, learned)

    def bound(self, *, tenant_id: UUID, session_id: UUID, external_id: str, now: datetime) -> None:
        apply_parked(tenant_id=tenant_id, keys=[(session_id, external_id)])

    def held(self, *, tenant_id: UUID, session_id: UUID, now: datetime) -> None:
        flag_risk(tenant_id=tenant_id, session_id=session_id, now=now)

    def ticket_changed(self, *, tenant_id: UUID, ticket_id: UUID, now: datetime) -> None:
        with across_owners():
            follow_ticket(tenant_id=tenant_id, ticket_id=ticket_id, now=now)
            open_episode(tenant_id=tenant_id, ticket_id=ticket_id)

    def queue_available(self, *, tenant_id: UUID, now: datetime) -> None:
        release_waiting(tenant_id=tenant_id, now=now)


def choose_address(capabilities: Capabilities, identities: Sequence[Identity], *, is_group: bool) -> str:
    """The address a contact is written to: what WhatsApp answers to, else LID or jid where allowed, else the phone.

    A foreign number is never turned into a Brazilian one. Raises: GroupsNotSupported, RecipientNotAddressable,
    UnsupportedRecipient, broker.InvalidTo. Rule: spec/outbound.md section 4, spec/broker.md section 7.
    """
    known = dict(reversed(identities))  # of several of a kind the first, which is the primary one
    if is_group:
        if not capabilities.groups_send or "jid" not in known:
            raise GroupsNotSupported
        return known["jid"]
    if "wa_address" not in known and capabilities.lid_recipients and (known.get("lid") or known.get("jid")):
        return f"{known['lid']}@lid" if "lid" in known else known["jid"]
    digits = known.get("wa_address") or known.get("phone", "").removeprefix("+")
    if not digits:
        raise RecipientNotAddressable
    if capabilities.countries and not digits.startswith(capabilities.countries):
        raise UnsupportedRecipient
    if digits.startswith("55") and len(digits) - 2 not in _LOCAL_DIGITS:
        raise broker.InvalidTo
    return digits


def _ask_address(line: Line, to: str) -> str:
    """The digits that WhatsApp answers to for a number that nobody has heard from. Nothing is sent by asking."""
    try:
        answer = broker.call("POST", "/instances/{id}/exists", parts={"id": line.reference}, body={"to": to})
    except broker.BrokerError as error:
        failure = _failure(error)
        if isinstance(failure, OutcomeUnknown):
            raise Retryable(failure.code, failure.message, failure.status, failure.answer) from error
        raise failure from error
    results = answer.data.get("results") if isinstance(answer.data, dict) else None
    found = next((one for one in results or [] if isinstance(one, dict) and one.get("exists")), None)
    if found is None:
        raise Refused(broker.InvalidTo.code, broker.InvalidTo().message, answer.status, answer.text)
    jid = parse_jid(found.get("jid"))
    return jid.user if jid is not None and jid.server == PHONE_SERVER and jid.user.isdigit() else to


def _route(order: SendOrder, to: str) -> tuple[str, dict[str, Any]]:
    """The route template and the body of a send. Raises: Refused for a type that no route takes."""
    payload = order.payload
    kind = payload["type"]
    seed = {
        "sessionId": str(order.line.id),
        "instanceId": order.line.reference,
        "to": to,
        "type": kind,
        "externalId": order.reference,
        "metadata": payload.get("metadata"),
    }
    text = payload.get("text") or payload.get("caption") or ""
    if settings.WHATSAPP_BROKER_SEND_ROUTE == "send-text":
        kept = ("text", "previewUrl", "template", "location", "contact", "contacts", "poll", "mimeType", "fileName")
        body = {**seed, "message": text, "mediaUrl": order.media_url, "caption": payload.get("caption")}
        return "/instances/{id}/send-text", _filled({**body, **{name: payload.get(name) for name in kept}})
    if kind == "text":
        return "/instances/{id}/send-text", _filled({**seed, "message": text, "text": text})
    if kind in _MEDIA:
        media = {
            "url": order.media_url,
            "mimetype": payload.get("mimeType"),
            "fileName": payload.get("fileName"),
            "ptt": payload.get("voice") or None,
        }
        return "/instances/{id}/send-media", _filled(
            {**seed, "caption": payload.get("caption"), "media": _filled(media)}
        )
    if kind == "poll":
        poll = payload["poll"]
        many = len(poll["options"]) if poll.get("allowMultipleAnswers") else 1
        body = {**seed, "question": poll["question"], "options": poll["options"], "selectableCount": many}
        return "/instances/{id}/send-poll", _filled(body)
    raise Refused(broker.UnsupportedOperation.code, broker.UnsupportedOperation().message)


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _read_sent(answer: broker.Answer, learned: tuple[Identity, ...]) -> Sent:
    """What a 2xx says: an id in `id`, `messageId` or `key.id`, or none; state 0 or ERROR means it failed (D35)."""
    data = answer.data
    if not isinstance(data, dict):
        raise OutcomeUnknown(broker.BrokerFailed.code, broker.BrokerFailed().message, answer.status, answer.text)
    key = data.get("key")
    found = data.get("id") or data.get("messageId") or (key.get("id") if isinstance(key, dict) else None)
    external_id = str(found)[:255] if found else None
    state = data.get("status")
    if (isinstance(state, str) and state.upper() in _FAILED_WORDS) or (type(state) is int and state == 0):
        raise Refused(
            broker.MessageRejected.code, broker.MessageRejected().message, answer.status, answer.text,
            external_id=external_id,
        )  # fmt: skip
    return Sent(external_id, answer.status, answer.text, learned)


def _failure(error: broker.BrokerError) -> SendFailure:
    """The outcome class of a broker error (spec/outbound.md section 8); whatever is not listed ended for good."""
    said = (error.code, error.message, error.http_status, error.answer)
    if error.unknown:
        return OutcomeUnknown(*said)
    if isinstance(error, broker.RateLimited):
        return RateLimited(*said, retry_after=error.retry_after)
    return _CLASSES.get(type(error), Refused)(*said)


_CLASSES: dict[type[broker.BrokerError], type[SendFailure]] = {
    broker.InstanceDisconnected: LineOffline,
    broker.InstanceNotFound: LineOffline,
    broker.RiskPaused: OperatorNeeded,
    broker.BrokerUnreachable: Retryable,
    broker.BrokerAuth: Retryable,
}
