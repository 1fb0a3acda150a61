"""The one way to tell the world: typed events, collected in the transaction, published once when it has committed.

Channels is at-most-once, so an event is a hint: nothing may depend on its arrival. One publish per tenant and
transaction carries a list of ready frames; each web process receives it once (hub.py). Who must not miss an event is an
outlet (outlets.py): it hears of the event in its transaction.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import structlog
from channels.layers import get_channel_layer
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from leadengine import metrics
from leadengine.realtime.events import Event, Facets
from leadengine.realtime.outlets import Memo, Offer, Outlet, outlets
from leadengine.redis import UNAVAILABLE

log = structlog.get_logger(__name__)
Item = dict[str, Any]
_gathering: ContextVar[list[Offer] | None] = ContextVar("offers_together", default=None)


def group_of(tenant_id: UUID | str) -> str:
    """The Channels group that carries a tenant's events."""
    return f"tenant.{tenant_id}"


def frame(event: str, data: Any, ref: str | None = None) -> str:
    """A socket frame `{"event", "data", "ref"?}` as text."""
    body: dict[str, Any] = {"event": event, "data": data}
    if ref is not None:
        body["ref"] = ref
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def broadcast(event: Event, facets: Facets | None = None, *, offered: bool = False) -> None:
    """Send an event to those who may see it, once the running transaction has committed, and offer it to the outlets.

    `offered`: they have heard of it already.
    """
    data = event.model_dump_json(by_alias=True)
    item: Item = {
        "event": event.name,
        "audience": event.audience,
        "frame": f'{{"event":"{event.name}","data":{data}}}',
        "facets": (facets or Facets()).model_dump(mode="json", exclude_none=True),
    }
    if (short := event.short()) is not None:
        item["short"] = frame(event.name, short)
    connection: Any = connections[DEFAULT_DB_ALIAS]
    if not connection.in_atomic_block:  # nothing has happened in the database: a presence
        _publish({str(event.tenant_id): [item]})
        return
    _batch_of(connection).items[str(event.tenant_id)].append(item)
    if not offered:
        _offer(Offer(event, lambda: data))


def offer(event: Event, complete: Callable[[], Event]) -> None:
    """Offer an event to the outlets alone, in the running transaction: the sockets are told of it later, if at all.

    `complete` gives the whole event; it is only called where somebody takes it.
    """
    _offer(Offer(event, lambda: complete().model_dump_json(by_alias=True)))


@contextmanager
def together() -> Iterator[None]:
    """Offer the events of this block (or decorated function) at once, when it ends: a statement for all of them.

    The block belongs to one transaction, and to one savepoint of it.
    """
    gathered: list[Offer] = []
    token = _gathering.set(gathered)
    try:
        yield
    finally:
        _gathering.reset(token)
    if gathered:
        _batch_of(connections[DEFAULT_DB_ALIAS]).offer(gathered)


def _offer(made: Offer) -> None:
    gathering = _gathering.get()
    if gathering is not None:
        gathering.append(made)
    else:
        _batch_of(connections[DEFAULT_DB_ALIAS]).offer([made])


class _Batch:
    """The events of one transaction (or savepoint), by tenant, and what the outlets noted in the whole of it."""

    def __init__(self, memo: Memo) -> None:
        self.items: dict[str, list[Item]] = defaultdict(list)
        self.memo = memo
        self.taken: list[Outlet] = []

    def offer(self, offers: Sequence[Offer]) -> None:
        for outlet in outlets():
            if outlet.take(offers, self.memo) and outlet not in self.taken:
                self.taken.append(outlet)

    def __call__(self) -> None:
        _publish(self.items)
        for outlet in self.taken:
            outlet.committed()


def _batch_of(connection: Any) -> _Batch:
    """The batch of the running transaction.

    It is the commit hook itself: a savepoint that is rolled back takes its hook, and so its events, with it.
    """
    hooks = connection.run_on_commit
    last = hooks[-1][1] if hooks else None
    if isinstance(last, _Batch) and hooks[-1][0] == set(connection.savepoint_ids):
        return last
    before = next((hook[1] for hook in reversed(hooks) if isinstance(hook[1], _Batch)), None)
    batch = _Batch(before.memo if before is not None else {})
    transaction.on_commit(batch)
    return batch


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
