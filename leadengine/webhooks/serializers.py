"""How endpoints and deliveries look from outside. Fields are always listed: no secret can slip in."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from leadengine.accounts.api.schema import Shape
from leadengine.moments import iso
from leadengine.webhooks.models import Attempt, Delivery, Endpoint


class EndpointShape(Shape):
    """`previousSecretUntil`: until when the secret before the last rotation signs too."""

    id: UUID
    url: str
    description: str
    events: list[str]
    enabled: bool
    disabled_reason: str | None
    disabled_at: datetime | None
    failures: int
    failing_since: datetime | None
    previous_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime


class SecretEndpointShape(EndpointShape):
    """With its secret, which is shown this once."""

    secret: str


class RequestShape(Shape):
    """What was sent: the headers of the last try, and the body."""

    headers: dict[str, str]
    body: dict[str, Any]


class AttemptShape(Shape):
    number: int
    at: datetime
    code: str
    status: int | None
    headers: dict[str, str]
    answer: str
    latency_ms: int | None


class DeliveryShape(Shape):
    """`webhookId` is the header of every try; `code`, `responseStatus` and `latencyMs` are the last one's."""

    id: UUID
    webhook_id: UUID
    endpoint_id: UUID
    event: str
    status: str
    attempts: int
    next_attempt_at: datetime | None
    code: str
    response_status: int | None
    latency_ms: int | None
    created_at: datetime
    finished_at: datetime | None
    request: RequestShape
    log: list[AttemptShape]


class ReplayedShape(Shape):
    """How many deliveries are due again; `nextFrom` and `nextAfter`: the next call's `from` and `after` when that was
    not all."""

    replayed: int
    next_from: datetime | None
    next_after: UUID | None


def endpoint_json(endpoint: Endpoint, *, secret: str | None = None) -> dict[str, Any]:
    """An endpoint; with `secret` only where it was just made."""
    shown = {
        "id": str(endpoint.pk),
        "url": endpoint.url,
        "description": endpoint.description,
        "events": endpoint.events,
        "enabled": endpoint.enabled,
        "disabledReason": endpoint.disabled_reason or None,
        "disabledAt": iso(endpoint.disabled_at),
        "failures": endpoint.failures,
        "failingSince": iso(endpoint.failing_since),
        "previousSecretUntil": iso(endpoint.previous_until),
        "createdAt": iso(endpoint.created_at),
        "updatedAt": iso(endpoint.updated_at),
    }
    return shown if secret is None else {**shown, "secret": secret}


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """A delivery with its body and every try; `event` and `log` are selected with it."""
    tries: list[Attempt] = sorted(delivery.log.all(), key=lambda attempt: attempt.number)
    return {
        "id": str(delivery.pk),
        "webhookId": str(delivery.event_id),
        "endpointId": str(delivery.endpoint_id),
        "event": delivery.type,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "nextAttemptAt": iso(delivery.next_attempt_at),
        "code": delivery.code,
        "responseStatus": delivery.response_status,
        "latencyMs": delivery.latency_ms,
        "createdAt": iso(delivery.created_at),
        "finishedAt": iso(delivery.finished_at),
        "request": {"headers": tries[-1].headers if tries else {}, "body": json.loads(delivery.event.body)},
        "log": [
            {
                "number": attempt.number, "at": iso(attempt.at), "code": attempt.code, "status": attempt.status,
                "headers": attempt.headers, "answer": attempt.answer, "latencyMs": attempt.latency_ms,
            }
            for attempt in tries
        ],
    }  # fmt: skip
