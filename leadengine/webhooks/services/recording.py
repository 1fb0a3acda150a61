"""Events become rows: what has happened once, and a delivery for each endpoint that gets it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from leadengine.celery import app
from leadengine.ids import uuid7
from leadengine.moments import iso
from leadengine.sql import unnest
from leadengine.wake import wake

KEY = "webhooks"
TASK = "webhooks.deliver_due"
_SUBSCRIBERS = "SELECT id, events FROM webhooks_endpoint WHERE tenant_id = %s AND deleted_at IS NULL"
_EVENT = {"id": "uuid", "tenant_id": "uuid", "type": "text", "at": "timestamptz", "body": "text"}
_DELIVERY = {
    "id": "uuid",
    "tenant_id": "uuid",
    "endpoint_id": "uuid",
    "event_id": "uuid",
    "type": "text",
    "at": "timestamptz",
}
# An endpoint that is switched off gets no delivery, but the event is kept: once it is on again, it can be replayed.
_RECORD = """
WITH kept AS (INSERT INTO webhooks_outgoingevent (id, tenant_id, type, at, body) SELECT * FROM {events})
INSERT INTO webhooks_delivery (id, tenant_id, endpoint_id, event_id, type, next_attempt_at)
SELECT new.* FROM {deliveries} AS new (id, tenant_id, endpoint_id, event_id, type, at)
JOIN webhooks_endpoint e ON e.id = new.endpoint_id AND e.tenant_id = new.tenant_id AND e.enabled
"""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event that is kept, and the endpoints that get it. `data` is JSON."""

    tenant_id: UUID
    id: UUID
    kind: str
    at: datetime
    data: str
    endpoints: Sequence[UUID]

    def body(self) -> str:
        """`{"id", "type", "timestamp", "tenantId", "data"}`: the text that is signed and sent, to the letter."""
        head = {
            "id": str(self.id), "type": self.kind, "timestamp": iso(self.at),
            "tenantId": str(self.tenant_id),
        }  # fmt: skip
        return f'{json.dumps(head, separators=(",", ":"))[:-1]},"data":{self.data}}}'


def find_subscribers(*, tenant_id: UUID) -> Mapping[str, Sequence[UUID]]:
    """The endpoints of a tenant by the events they get, those that are switched off too. Runs in the caller's scope."""
    found: dict[str, list[UUID]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_SUBSCRIBERS, [tenant_id])
        for endpoint_id, events in cursor.fetchall():
            for name in events:
                found[name].append(endpoint_id)
    return found


def record_events(events: Sequence[Happened]) -> list[UUID]:
    """Keep events and what is to be delivered of them, with one statement, in the caller's transaction and scope.

    Returns the ids that the deliveries have; one of an endpoint that is switched off is not made.
    """
    kept = [(one.id, one.tenant_id, one.kind, one.at, one.body()) for one in events]
    made = [
        (uuid7(), one.tenant_id, endpoint_id, one.id, one.kind, one.at)
        for one in events
        for endpoint_id in one.endpoints
    ]
    (source, arrays), (goal, more) = unnest(_EVENT, kept), unnest(_DELIVERY, made)
    with connection.cursor() as cursor:
        cursor.execute(_RECORD.format(events=source, deliveries=goal), [*arrays, *more])
    return [row[0] for row in made]


def wake_delivery() -> None:
    """Wake the sending of webhooks; call it when what is due has been committed."""
    # By name, not by import: the task stands above the services it calls.
    task: Any = app.signature(TASK)
    wake(task, key=KEY)


def wake_delivery_on_commit() -> None:
    """Wake it once the running transaction has committed."""
    transaction.on_commit(wake_delivery)
