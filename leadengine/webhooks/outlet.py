"""Where the realtime layer hands every event over (settings.EVENT_OUTLETS): what an endpoint gets is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from leadengine.realtime.outlets import Memo, Offer
from leadengine.webhooks.models import EVENTS
from leadengine.webhooks.services.recording import Happened, find_subscribers, record_events, wake_delivery


class WebhookOutlet:
    """Writes what happens, and who gets it, in the transaction of the event."""

    def take(self, offers: Sequence[Offer], memo: Memo) -> bool:
        """Keep events for their subscribers. Who they are is asked once in a transaction, however many events."""
        wanted = [
            Happened(one.event.tenant_id, one.event.event_id, one.event.name, one.event.at, one.data(), endpoints)
            for one in offers
            if one.event.name in EVENTS and (endpoints := _subscribers(one.event.tenant_id, memo).get(one.event.name))
        ]
        if wanted:
            record_events(wanted)
        return bool(wanted)

    def committed(self) -> None:
        """There is something to deliver."""
        wake_delivery()


def _subscribers(tenant_id: UUID, memo: Memo) -> Mapping[str, Sequence[UUID]]:
    key = (WebhookOutlet, tenant_id)
    if key not in memo:
        memo[key] = find_subscribers(tenant_id=tenant_id)
    found: Mapping[str, Sequence[UUID]] = memo[key]
    return found
