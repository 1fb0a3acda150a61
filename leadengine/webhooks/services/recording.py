"""Events become rows: what has happened once, and a delivery for each endpoint that gets it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from leadengine.celery import app
from leadengine.ids import uuid7
from leadengine.wake import wake

KEY = "webhooks"
TASK = "webhooks.deliver_due"
_SUBSCRIBERS = "SELECT id, events FROM webhooks_endpoint WHERE tenant_id = %s AND deleted_at IS NULL"
# An endpoint that is switched off gets no delivery, but the event is kept: once it is on again, it can be replayed.
_RECORD = """
WITH kept AS (
    INSERT INTO webhooks_outgoingevent (id, tenant_id, type, at, body)
    VALUES (%(event)s, %(tenant)s, %(kind)s, %(at)s, %(body)s)
)
INSERT INTO webhooks_delivery (id, tenant_id, endpoint_id, event_id, type, next_attempt_at)
SELECT new.id, e.tenant_id, e.id, %(event)s, %(kind)s, %(at)s
FROM unnest(%(ids)s::uuid[], %(endpoints)s::uuid[]) AS new (id, endpoint_id)
JOIN webhooks_endpoint e ON e.id = new.endpoint_id AND e.tenant_id = %(tenant)s AND e.enabled
"""


def find_subscribers(*, tenant_id: UUID) -> Mapping[str, Sequence[UUID]]:
    """The endpoints of a tenant by the events they get, those that are switched off too. Runs in the caller's scope."""
    found: dict[str, list[UUID]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_SUBSCRIBERS, [tenant_id])
        for endpoint_id, events in cursor.fetchall():
            for name in events:
                found[name].append(endpoint_id)
    return found


def record_event(
    *, tenant_id: UUID, event_id: UUID, kind: str, at: datetime, data: str, endpoints: Sequence[UUID]
) -> list[UUID]:
    """Keep an event and what is to be delivered of it; `data` is JSON. Runs in the caller's transaction and scope.

    Returns the ids that the deliveries have; one of an endpoint that is switched off is not made.
    """
    ids = [uuid7() for _ in endpoints]
    values: dict[str, Any] = {
        "event": event_id, "tenant": tenant_id, "kind": kind, "at": at, "ids": ids, "endpoints": list(endpoints),
        "body": make_body(tenant_id=tenant_id, event_id=event_id, kind=kind, at=at, data=data),
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, values)
    return ids


def make_body(*, tenant_id: UUID, event_id: UUID, kind: str, at: datetime, data: str) -> str:
    """`{"id", "type", "timestamp", "tenantId", "data"}`: the text that is signed and sent, to the letter."""
    head = {
        "id": str(event_id), "type": kind, "timestamp": at.isoformat().replace("+00:00", "Z"),
        "tenantId": str(tenant_id),
    }  # fmt: skip
    return f'{json.dumps(head, separators=(",", ":"))[:-1]},"data":{data}}}'


def wake_delivery() -> None:
    """Wake the sending of webhooks; call it when what is due has been committed."""
    # By name, not by import: the task stands above the services it calls.
    task: Any = app.signature(TASK)
    wake(task, key=KEY)


def wake_delivery_on_commit() -> None:
    """Wake it once the running transaction has committed."""
    transaction.on_commit(wake_delivery)
