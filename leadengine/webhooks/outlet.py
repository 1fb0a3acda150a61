"""Where the realtime layer hands every event over (settings.EVENT_OUTLETS): what an endpoint gets is kept."""

from __future__ import annotations

from collections.abc import Callable

from leadengine.realtime.events import Event
from leadengine.realtime.outlets import Memo
from leadengine.webhooks.models import EVENTS
from leadengine.webhooks.services.recording import find_subscribers, record_event, wake_delivery


class WebhookOutlet:
    """Writes what happens, and who gets it, in the transaction of the event."""

    def offer(self, event: Event, data: Callable[[], str], memo: Memo) -> bool:
        """Keep an event for its subscribers. Who they are is asked once in a transaction, however many events."""
        if event.name not in EVENTS:
            return False
        key = (WebhookOutlet, event.tenant_id)
        if key not in memo:
            memo[key] = find_subscribers(tenant_id=event.tenant_id)
        endpoints = memo[key].get(event.name)
        if not endpoints:
            return False
        record_event(
            tenant_id=event.tenant_id, event_id=event.event_id, kind=event.name, at=event.at, data=data(),
            endpoints=endpoints,
        )  # fmt: skip
        return True

    def committed(self) -> None:
        """There is something to deliver."""
        wake_delivery()
