"""The one way to tell the world: typed events, collected in the transaction, published once when it has committed.

Channels is at-most-once, so an event is a hint: nothing may depend on its arrival. One publish per tenant and
transaction carries a list of ready frames; each web process receives it once (hub.py).
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any
from uuid import UUID

import structlog
from channels.layers import get_channel_layer
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from leadengine import metrics
from leadengine.realtime.events import Event, Facets
from leadengine.redis import UNAVAILABLE

log = structlog.get_logger(__name__)
Item = dict[str, Any]


def group_of(tenant_id: UUID | str) -> str:
    """The Channels group that carries a tenant's events."""
    return f"tenant.{tenant_id}"


def frame(event: str, data: Any, ref: str | None = None) -> str:
    """A socket frame `{"event", "data", "ref"?}` as text."""
    body: dict[str, Any] = {"event": event, "data": data}
    if ref is not None:
        body["ref"] = ref
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def broadcast(event: Event, facets: Facets | None = None) -> None:
    """Send an event to those who may see it, once the running transaction has committed."""
    item: Item = {
        "event": event.name,
        "audience": event.audience,
        "frame": f'{{"event":"{event.name}","data":{event.model_dump_json(by_alias=True)}}}',
        "facets": (facets or Facets()).model_dump(mode="json", exclude_none=True),
    }
    if (short := event.short()) is not None:
        item["short"] = frame(event.name, short)
    connection: Any = connections[DEFAULT_DB_ALIAS]
    if not connection.in_atomic_block:
        _publish({str(event.tenant_id): [item]})
        return
    # Kept on the commit hook itself: a savepoint that is rolled back takes its hook, and so its events, with it.
    hooks = connection.run_on_commit
    last = hooks[-1][1] if hooks else None
    if isinstance(last, _Batch) and hooks[-1][0] == set(connection.savepoint_ids):
        last.items[str(event.tenant_id)].append(item)
        return
    batch = _Batch()
    batch.items[str(event.tenant_id)].append(item)
    transaction.on_commit(batch)


class _Batch:
    """The events of one transaction (or savepoint), by tenant."""

    def __init__(self) -> None:
        self.items: dict[str, list[Item]] = defaultdict(list)

    def __call__(self) -> None:
        _publish(self.items)


def _publish(batches: dict[str, list[Item]]) -> None:
    layer: Any = get_channel_layer()
    for tenant_id, items in batches.items():
        for item in items:
            metrics.ws_events.labels(event=item["event"]).inc()
        try:
            layer.publish(group_of(tenant_id), {"type": "hub.batch", "items": items, "published": time.time()})
        except UNAVAILABLE as error:
            metrics.broadcasts_missed.inc()
            log.warning("broadcast_missed", events=len(items), error=type(error).__name__)
