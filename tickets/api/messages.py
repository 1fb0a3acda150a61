"""REST of the outbox: the door of a ticket, and what people do with a message (spec/outbound.md sections 4 and 10)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from uuid import UUID

from django.utils import timezone
from pydantic import BeforeValidator, ConfigDict, SkipValidation
from pydantic.alias_generators import to_camel
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Moment, Query, answer, describe
from leadengine.accounts.api.schema import Shape
from leadengine.accounts.models import ApiKey
from leadengine.errors import NotFound, ValidationFailed
from tickets.api.base import TicketAPIView
from tickets.models import Message, OutboundAttempt
from tickets.payloads import AnyPayload, parse_payload
from tickets.policy import visible_tickets
from tickets.serializers import MessageShape
from tickets.services.outbox import (
    Queued,
    Wish,
    cancel_message,
    dismiss_message,
    find_own_message,
    find_ticket,
    queue_to_ticket,
    reschedule_message,
    resend_message,
)
from tickets.services.shapes import iso, message_json
from tickets.transports import Line, get_transport

CHANNEL = "WHATSAPP"
Door = TypeVar("Door", bound="SendBody")
Form = TypeVar("Form", bound=Body)


def _require_object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("Deve ser um objeto.")  # noqa: TRY004 - what pydantic turns into a refusal
    return value


class SendBody(Body):
    """What a door takes beside the payload, which is an object of its own or stands at the top level of the body."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel, allow_inf_nan=False)

    # Described as it is, read by parse_payload, which both forms go through.
    payload: Annotated[SkipValidation[AnyPayload], BeforeValidator(_require_object)] | None = None
    instance_id: str | None = None
    session_id: str | None = None
    idempotency_key: str | None = None
    expected_last_message_id: UUID | None = None
    force: bool = False
    reopen: bool = False
    when_unavailable: Literal["fail", "queue"] = "fail"
    scheduled_at: Moment | None = None
    cancel_if_customer_replies: bool = True

    def content(self) -> dict[str, Any]:
        """The payload. Raises: ValidationFailed when it stands in both places."""
        beside = dict(self.model_extra or {})
        if self.payload is None:
            return beside
        if beside:
            raise ValidationFailed([{"field": name, "message": "Não vai ao lado de payload."} for name in beside])
        return dict(self.payload)

    def named_here(self, refused: ValidationFailed) -> ValidationFailed:
        """What is wrong with the payload, by the names that its fields have in this body."""
        return refused


class ResendBody(Body):
    confirm_duplicate: bool = False


class ScheduleBody(Body):
    scheduled_at: Moment


class NoBody(Body):
    """These actions take no field."""


State = Literal[
    "RECEIVED", "SCHEDULED", "QUEUED", "SENDING", "UNCONFIRMED", "SENT", "DELIVERED", "READ", "FAILED", "CANCELED"
]


class MessageQuery(Query):
    status: tuple[State, ...] = ()
    session_id: UUID | None = None
    ticket_id: UUID | None = None
    direction: Literal["INBOUND", "OUTBOUND"] | None = None


class DetailQuery(Body):
    include: Literal["attempts"] | None = None


class AcceptedShape(Shape):
    """The 202 of every door. `externalId` is the channel's id when known, until then ours."""

    queued: bool
    ticket_id: UUID
    message_id: UUID
    status: str
    position: int
    external_id: str
    idempotency_key: str | None
    scheduled_at: datetime | None
    cancelable_until: datetime | None
    wait_reason: str | None
    not_before: datetime | None
    error: dict[str, Any] | None


class AttemptShape(Shape):
    """One try. `outcome` is the state it led to, or LATE when something else had settled the message before."""

    number: int
    claimed_at: datetime
    finished_at: datetime | None
    outcome: str
    code: str
    broker_status: int | None
    broker_answer: str
    latency_ms: int | None


class OutboxMessageShape(MessageShape):
    """`attempts` counts the tries to send; `attemptRows` only where they were asked for."""

    attempts: int
    attempt_rows: list[AttemptShape] | None = None


class SendView(TicketAPIView):
    """What the doors share: the caller's wish, and the 202."""

    permissions: ClassVar = {"POST": "messages:send"}

    def read_wish(self, model: type[Door]) -> tuple[Door, Wish]:
        """The body, and the wish in it. Raises: ValidationFailed, NotFound for an unknown session."""
        try:
            body = self.read_body(model)
        except ValidationFailed as refused:
            raise ValidationFailed(self._with_payload(refused.details["errors"], model)) from refused
        wish = Wish(
            author=self.user, payload=body.content(), source=self.source,
            idempotency_key=body.idempotency_key, header_key=self.request.headers.get("Idempotency-Key"),
            expected_last_message_id=body.expected_last_message_id, force=body.force,
            when_unavailable=body.when_unavailable, session=self.find_line(body), scheduled_at=body.scheduled_at,
            cancel_if_customer_replies=body.cancel_if_customer_replies,
        )  # fmt: skip
        return body, wish

    def _with_payload(self, errors: list[dict[str, str]], model: type[Door]) -> list[dict[str, str]]:
        """Every bad field of a body that was refused: what is wrong with its payload, too."""
        given, bad = json.loads(self.request._request.body or b"{}"), {one["field"].partition(".")[0] for one in errors}
        if not isinstance(given, dict) or "payload" in bad:
            return errors
        body = model.model_construct(**{name: value for name, value in given.items() if name not in bad})
        try:
            parse_payload(body.content())
        except ValidationFailed as refused:
            more = body.named_here(refused).details["errors"]
            return errors + [one for one in more if one["field"].partition(".")[0] not in bad]
        return errors

    def find_line(self, body: SendBody) -> Line | None:
        """The session that the body names; its two fields must name the same. Raises: NotFound, ValidationFailed."""
        named = [reference for reference in (body.instance_id, body.session_id) if reference is not None]
        lines = [self.line(reference) for reference in named]
        if len({line.id for line in lines}) > 1:
            raise ValidationFailed([{"field": "sessionId", "message": "Não é a conexão de instanceId."}])
        return lines[0] if lines else None

    def line(self, reference: str) -> Line:
        """A session by any of its names. Raises: NotFound."""
        line = get_transport(CHANNEL).line(reference)
        if line is None or self.only_session not in {None, line.id}:
            raise NotFound("Conexão não encontrada.")
        return line

    @property
    def source(self) -> str:
        """A key acts as the API; a person, also one who signed in over the API, as an agent."""
        key = self.api_key
        return Message.Source.AGENT if key is None or key.kind == ApiKey.Kind.LOGIN else Message.Source.API


class TicketDoor(SendView):
    """POST of /api/tickets/{id}/messages; its GET is the list of a ticket's messages."""

    @describe(AcceptedShape, body=SendBody, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, ticket_id: UUID) -> Response:
        """Accept a message into a ticket."""
        get_transport(CHANNEL).require_configured()
        try:
            body, wish = self.read_wish(SendBody)
        except ValidationFailed:
            find_ticket(ticket_id=ticket_id, author=self.user)  # what is not there is 404, whatever the body
            raise
        return accepted(queue_to_ticket(ticket_id=ticket_id, wish=wish, reopen=body.reopen, now=timezone.now()))


class MessageListView(TicketAPIView):
    permissions: ClassVar = {"GET": "tickets:read"}

    @describe(OutboxMessageShape, many=True, query=MessageQuery)
    def get(self, request: Request) -> Response:
        """Messages of the tenant, the newest first: the outbox and what failed. For supervisors."""
        if not (self.user.is_supervisor or self.user.is_superuser):
            raise exceptions.PermissionDenied
        query = self.read_query(MessageQuery)
        # Only what we send has any other state than RECEIVED; said so, the index of the outbox can be used.
        ours = bool(query.status) and "RECEIVED" not in query.status
        given = {
            "status__in": query.status, "session_id": query.session_id, "ticket_id": query.ticket_id,
            "direction": query.direction or ("OUTBOUND" if ours else None),
        }  # fmt: skip
        rows = self.of_tenant(Message.objects.all()).filter(**{name: value for name, value in given.items() if value})
        return self.answer_page(_dressed(rows), query, _json, descending=True)


class ActionView(TicketAPIView):
    """What people do with a message."""

    permissions: ClassVar = {"POST": "messages:send"}

    def read_form(self, model: type[Form], message_id: UUID) -> Form:
        """The body. Raises: ValidationFailed; NotFound before that for a message that the caller does not see."""
        try:
            return self.read_body(model)
        except ValidationFailed:
            find_own_message(self.user, message_id)
            raise


class MessageView(ActionView):
    permissions: ClassVar = {"GET": "tickets:read", "PATCH": "messages:send"}

    @describe(OutboxMessageShape, query=DetailQuery)
    def get(self, request: Request, message_id: UUID) -> Response:
        """One message; with `include=attempts` every try to send it, for supervisors."""
        query = self.read_query(DetailQuery)
        rows = _dressed(Message.objects.filter(ticket__in=visible_tickets(self.viewer)))
        message = rows.filter(pk=message_id).first()
        if message is None:
            raise NotFound
        data = _json(message)
        if query.include:
            if not (self.user.is_supervisor or self.user.is_superuser):
                raise exceptions.PermissionDenied
            attempts = OutboundAttempt.objects.filter(message=message).order_by("claimed_at")
            data["attemptRows"] = [_attempt_json(attempt) for attempt in attempts]
        return answer(data)

    @describe(OutboxMessageShape, body=ScheduleBody)
    def patch(self, request: Request, message_id: UUID) -> Response:
        """Give a scheduled message another time."""
        body = self.read_form(ScheduleBody, message_id)
        message = reschedule_message(
            actor=self.user, message_id=message_id, scheduled_at=body.scheduled_at, now=timezone.now()
        )
        return answer(_json(message))


class CancelView(ActionView):
    @describe(OutboxMessageShape, body=NoBody)
    def post(self, request: Request, message_id: UUID) -> Response:
        """Withdraw a message that waits."""
        self.read_form(NoBody, message_id)
        return answer(_json(cancel_message(actor=self.user, message_id=message_id, now=timezone.now())))


class ResendView(ActionView):
    @describe(AcceptedShape, body=ResendBody, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, message_id: UUID) -> Response:
        """Send a failed message again, or, confirmed, one that may have arrived."""
        get_transport(CHANNEL).require_configured()
        body = self.read_form(ResendBody, message_id)
        return accepted(
            resend_message(
                actor=self.user, message_id=message_id, confirm_duplicate=body.confirm_duplicate, now=timezone.now()
            )
        )


class DismissView(ActionView):
    @describe(OutboxMessageShape, body=NoBody)
    def post(self, request: Request, message_id: UUID) -> Response:
        """Hide the alert of a failed or unconfirmed message."""
        self.read_form(NoBody, message_id)
        return answer(_json(dismiss_message(actor=self.user, message_id=message_id, now=timezone.now())))


def accepted(queued: Queued) -> Response:
    """The 202 of a door; a replay says so in a header."""
    message = queued.message
    response = answer(
        {
            "queued": True,
            "ticketId": str(message.ticket_id),
            "messageId": str(message.pk),
            "status": message.status,
            "position": message.position,
            "externalId": message.external_id or str(message.pk),
            "idempotencyKey": message.idempotency_key,
            "scheduledAt": iso(message.scheduled_at),
            "cancelableUntil": iso(message.cancelable_until),
            "waitReason": message.wait_reason,
            "notBefore": iso(message.not_before),
            "error": message.error,
        },
        code=status.HTTP_202_ACCEPTED,
    )
    if queued.replayed:
        response["Idempotent-Replayed"] = "true"
    return response


def _dressed(rows: Any) -> Any:
    # Without what no answer shows: a thumbnail alone may be 64 KB.
    return rows.select_related("author", "media").defer("payload", "media__thumbnail", "media__source")


def _json(message: Message) -> dict[str, Any]:
    return message_json(message, media=getattr(message, "media", None)) | {"attempts": message.attempts}


def _attempt_json(attempt: OutboundAttempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "claimedAt": iso(attempt.claimed_at),
        "finishedAt": iso(attempt.finished_at),
        "outcome": attempt.outcome,
        "code": attempt.code,
        "brokerStatus": attempt.broker_status,
        "brokerAnswer": attempt.broker_answer,
        "latencyMs": attempt.latency_ms,
    }
