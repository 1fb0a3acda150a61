"""Sending again what was sent, given up or missed while an endpoint was off, and a test; ids stay what they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.accounts.models import User
from leadengine.accounts.services import write_audit, write_audits
from leadengine.errors import DomainError
from leadengine.ids import uuid7
from leadengine.sql import insert_rows
from leadengine.webhooks.models import TEST_EVENT, Delivery, Endpoint
from leadengine.webhooks.services.endpoints import EndpointOff, require_on
from leadengine.webhooks.services.recording import Happened, record_events, wake_delivery_on_commit

MOST_REPLAYED = 5000  # events of one call
_FIRST = UUID(int=0)  # before every id
_ENDED = (Delivery.Status.DELIVERED, Delivery.Status.DEAD)

_WANTED = """
SELECT id, type, at FROM webhooks_outgoingevent
WHERE tenant_id = %s AND (at, id) > (%s, %s) AND at < %s AND type = ANY(%s) ORDER BY at, id LIMIT %s
"""
_COLUMNS = {
    "id": "uuid", "tenant_id": "uuid", "endpoint_id": "uuid", "event_id": "uuid", "type": "text",
    "next_attempt_at": "timestamptz",
}  # fmt: skip
# What is on its way already keeps its turn.
_ON_CONFLICT = """
ON CONFLICT (event_id, endpoint_id) DO UPDATE SET status = 'PENDING', tries = 0, finished_at = NULL,
    next_attempt_at = excluded.next_attempt_at
WHERE webhooks_delivery.status IN ('DELIVERED', 'DEAD')
RETURNING 1
"""


class StillOnItsWay(DomainError):
    """Esta entrega ainda está a caminho."""

    code = "DELIVERY_ON_ITS_WAY"
    status = 409


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many deliveries are due again. When there was more than one call takes, `last` is the last event of this one
    by its time and id: the next call goes on behind it.
    """

    count: int
    last: tuple[datetime, UUID] | None


def replay_period(
    *,
    actor: User,
    endpoint: Endpoint,
    since: datetime,
    until: datetime,
    events: Sequence[str] | None,
    now: datetime,
    after: UUID | None = None,
) -> Replayed:
    """Send an endpoint again what happened in a period, delivered or not, and what it missed while it was off.

    Without `events` those that it gets. `after` leaves out what happened at `since` itself up to this event: many may
    have happened at one moment. Raises: EndpointOff.
    """
    require_on(endpoint)
    with connection.cursor() as cursor:
        wanted = list(events or endpoint.events)
        cursor.execute(_WANTED, [endpoint.tenant_id, since, after or _FIRST, until, wanted, MOST_REPLAYED + 1])
        found = cursor.fetchall()
        more = len(found) > MOST_REPLAYED
        rows = [(uuid7(), endpoint.tenant_id, endpoint.pk, key, kind, now) for key, kind, _ in found[:MOST_REPLAYED]]
        count = 0
        if rows:
            insert_rows(cursor, "webhooks_delivery", _COLUMNS, rows, _ON_CONFLICT)
            count = cursor.rowcount
    changes = {"from": [None, since.isoformat()], "to": [None, until.isoformat()], "deliveries": [None, count]}
    write_audit(
        tenant_id=endpoint.tenant_id, actor=actor, action="webhook.replayed", target=endpoint, changes=changes
    )  # fmt: skip
    wake_delivery_on_commit()
    return Replayed(count, (found[MOST_REPLAYED - 1][2], found[MOST_REPLAYED - 1][0]) if more else None)


def replay_delivery(*, actor: User, delivery: Delivery, now: datetime) -> Delivery:
    """Send one delivery again. Raises: EndpointOff, StillOnItsWay."""
    require_on(delivery.endpoint)
    ended = Delivery.objects.for_tenant(delivery.tenant_id).filter(pk=delivery.pk, status__in=_ENDED)
    if not ended.update(status=Delivery.Status.PENDING, tries=0, next_attempt_at=now, finished_at=None):
        raise StillOnItsWay
    write_audit(tenant_id=delivery.tenant_id, actor=actor, action="webhook.replayed", target=delivery)
    wake_delivery_on_commit()
    delivery.refresh_from_db()
    return delivery


def replay_deliveries(*, actor: User, ids: Sequence[UUID], now: datetime) -> int:
    """Send deliveries again, those that have ended and whose endpoint is on; returns how many that were.

    Runs in the caller's scope, in a transaction.
    """
    rows = Delivery.objects.filter(pk__in=ids, status__in=_ENDED, endpoint__enabled=True, endpoint__deleted_at=None)
    chosen = list(rows.select_for_update(of=("self",)).order_by("pk"))
    found = Delivery.objects.filter(pk__in=[row.pk for row in chosen])
    found.update(status=Delivery.Status.PENDING, tries=0, next_attempt_at=now, finished_at=None)
    write_audits(actor=actor, action="webhook.replayed", targets=chosen)
    wake_delivery_on_commit()
    return len(chosen)


def send_test(*, actor: User, endpoint: Endpoint, now: datetime) -> Delivery:
    """Send an endpoint an event `webhook.test`, whatever events it gets.

    Raises: EndpointOff, also when it was switched off since it was read.
    """
    require_on(endpoint)
    data = json.dumps({"endpointId": str(endpoint.pk), "description": endpoint.description}, ensure_ascii=False)
    made = record_events([Happened(endpoint.tenant_id, uuid7(), TEST_EVENT, now, data, [endpoint.pk])])
    delivery: Delivery | None = Delivery.objects.select_related("event").filter(pk=made[0]).first()
    if delivery is None:
        raise EndpointOff
    write_audit(tenant_id=endpoint.tenant_id, actor=actor, action="webhook.tested", target=endpoint)
    wake_delivery_on_commit()
    return delivery
