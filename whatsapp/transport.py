"""The WhatsApp channel as tickets see it: who can be written to, by which route, and what a failure means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.errors import DomainError, NotConfigured
from tickets.transports import (
    Capabilities,
    Identity,
    KeptFile,
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
from whatsapp import broker_errors
from whatsapp.adapters import Outgoing, get_adapter
from whatsapp.services.atendimentos import follow_ticket
from whatsapp.services.episodes import open_episode
from whatsapp.services.lines import (
    across_owners,
    announce_sessions,
    capabilities_of,
    find_line,
    flag_risk,
    look_at_circuits,
)
from whatsapp.services.parking import apply_parked, meet
from whatsapp.services.persistence import persist
from whatsapp.services.queue_missing import release_waiting
from whatsapp.services.sessions.listening import ask_for_look
from whatsapp.services.uploads import require_upload, sign_source, take_upload

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
        get_adapter().require_configured()

    def line(self, reference: UUID | str) -> Line | None:
        return find_line(reference)

    def capabilities(self, session_id: UUID) -> Capabilities:
        line = find_line(session_id)
        return line.capabilities if line else capabilities_of(None)

    def check_recipient(self, *, line: Line, identities: Sequence[Identity], is_group: bool) -> None:
        choose_address(line.capabilities, identities, is_group=is_group)

    def take_file(self, *, tenant_id: UUID, file_id: UUID, author: User | None, line: Line, now: datetime) -> KeptFile:
        return take_upload(tenant_id=tenant_id, upload_id=file_id, author=author, line=line, now=now)

    def require_file(self, *, tenant_id: UUID, source: Mapping[str, Any], now: datetime) -> None:
        require_upload(tenant_id=tenant_id, source=source, now=now)

    def send(self, order: SendOrder) -> Sent:
        """Send now. A first message to a number is asked for before it is written to."""
        capabilities = order.line.capabilities
        if order.payload["type"] not in capabilities.types:
            raise Refused(broker_errors.UnsupportedOperation.code, broker_errors.UnsupportedOperation().message)
        try:
            get_adapter().require_configured()
            to = choose_address(capabilities, order.identities, is_group=order.is_group)
        except NotConfigured as error:
            raise Retryable(error.code, error.message) from error
        except DomainError as error:
            raise Refused(error.code, error.message) from error
        learned: tuple[Identity, ...] = ()
        if capabilities.exists and not order.is_group and not any(kind == "wa_address" for kind, _ in order.identities):
            to = _ask_address(order.line, to)
            learned = (("wa_address", to),)
        message = Outgoing(
            session_id=order.line.id, instance=order.line.reference, to=to, payload=order.payload,
            media_url=sign_source(order.file, now=timezone.now()) if order.file else None,
            reference=order.reference, message_id=order.message_id, attempt_id=order.attempt_id,
        )  # fmt: skip
        try:
            sent = get_adapter().send(message)
        except broker_errors.BrokerError as error:
            failure = _failure(error)
            if isinstance(failure, LineOffline):
                ask_for_look(order.line.id, source="sync", contradicted=True)
            raise failure from error
        return Sent(sent.external_id, sent.status, sent.answer, learned)

    def bound(self, *, tenant_id: UUID, session_id: UUID, external_id: str, now: datetime) -> None:
        meet([(session_id, external_id)])
        apply_parked(tenant_id=tenant_id, keys=[(session_id, external_id)])

    def held(self, *, tenant_id: UUID, session_id: UUID, now: datetime) -> None:
        flag_risk(tenant_id=tenant_id, session_id=session_id, now=now)

    def circuit_changed(self, *, tenant_id: UUID, session_id: UUID, now: datetime) -> None:
        look_at_circuits(now=now)  # Redis itself has just said so: it answers
        announce_sessions(tenant_id=tenant_id, ids=[session_id], change="status", now=now)

    def ticket_changed(self, *, tenant_id: UUID, ticket_id: UUID, now: datetime) -> None:
        def follow() -> None:
            follow_ticket(tenant_id=tenant_id, ticket_id=ticket_id, now=now)
            open_episode(tenant_id=tenant_id, ticket_id=ticket_id)

        persist("atendimento.follow", follow, scope=across_owners)

    def queue_available(self, *, tenant_id: UUID, now: datetime) -> None:
        release_waiting(tenant_id=tenant_id, now=now)


def choose_address(capabilities: Capabilities, identities: Sequence[Identity], *, is_group: bool) -> str:
    """The address a contact is written to: what WhatsApp answers to, else LID or jid where allowed, else the phone.

    A foreign number is never turned into a Brazilian one. Raises: GroupsNotSupported, RecipientNotAddressable,
    UnsupportedRecipient, broker_errors.InvalidTo. Rule: spec/outbound.md section 4, spec/broker.md section 7.
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
        raise broker_errors.InvalidTo
    return digits


def _ask_address(line: Line, to: str) -> str:
    """The digits that WhatsApp answers to for a number that nobody has heard from. Nothing is sent by asking."""
    try:
        found = get_adapter().exists(instance=line.reference, to=to)
    except broker_errors.BrokerError as error:
        failure = _failure(error)
        if isinstance(failure, OutcomeUnknown):
            raise Retryable(failure.code, failure.message, failure.status, failure.answer) from error
        raise failure from error
    if found is None:
        raise Refused(broker_errors.InvalidTo.code, broker_errors.InvalidTo().message, 200)
    return found


def _failure(error: broker_errors.BrokerError) -> SendFailure:
    """The outcome class of a broker error (spec/outbound.md section 8); whatever is not listed ended for good."""
    said = (error.code, error.message, error.http_status, error.answer)
    if error.unknown:
        return OutcomeUnknown(*said)
    if isinstance(error, broker_errors.RateLimited):
        return RateLimited(*said, retry_after=error.retry_after)
    if type(error) not in _CLASSES:
        return Refused(*said, external_id=error.external_id)
    return _CLASSES[type(error)](*said)


_CLASSES: dict[type[broker_errors.BrokerError], type[SendFailure]] = {
    broker_errors.InstanceDisconnected: LineOffline,
    broker_errors.InstanceNotFound: LineOffline,
    broker_errors.RiskPaused: OperatorNeeded,
    broker_errors.BrokerUnreachable: Retryable,
    broker_errors.BrokerAuth: Retryable,
}
