"""The official broker's event list, in the shape of its webhooks (spec/broker.md section 6). Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from whatsapp.adapters import Delivery, Listed
from whatsapp.normalizers.values import as_dict, as_id, as_int, as_text

PAGE = 200  # the most that it gives at once
# After this an event whose first attempt seems to run still is taken: nobody may be delivering it.
_FIRST_ATTEMPT_MS = 30_000
_WITH_WEBHOOK = {"MESSAGE_INBOUND", "MESSAGE_OUTBOUND", "POLL_CHOICE"}
_STATES: dict[str, Delivery] = {
    "success": "delivered",
    "pending": "on_its_way",
    "retry": "retrying",
    "failed": "given_up",
}


def read_page(instance: str, events: Sequence[Any], now: datetime) -> list[Listed]:
    """Read the events of a page; one without an id cannot be acknowledged and is left out."""
    tried: set[str] = set()
    listed: list[Listed] = []
    for event in map(as_dict, reversed(events)):
        if (event_id := as_id(event.get("id"))) is not None:
            one = _read(instance, event, event_id, now)
            if event.get("type") == "WEBHOOK_DELIVERY":
                # Of several attempts of one webhook, which have the same body, the last tells how it ended.
                body = json.dumps(as_dict(event.get("payload")).get("body"))
                one = Listed(event_id, None, one.delivery) if body in tried else one
                tried.add(body)
            listed.append(one)
    return listed[::-1]


def _read(instance: str, event: dict[str, Any], event_id: str, now: datetime) -> Listed:
    kind, payload = as_text(event.get("type")), as_dict(event.get("payload"))
    created = as_int(event.get("createdAt")) or 0
    if kind in _WITH_WEBHOOK:
        delivery = _STATES.get(str(as_dict(event.get("delivery")).get("state")), "none")
        if delivery == "on_its_way" and now.timestamp() * 1000 - created > _FIRST_ATTEMPT_MS:
            delivery = "retrying"
    elif kind == "MESSAGE_STATUS":
        delivery = "none"
    elif kind == "WEBHOOK_DELIVERY":
        # One per attempt, with the whole webhook: the only trace of raw events that never arrived.
        delivery, body = _STATES.get(str(payload.get("state")), "none"), payload.get("body")
        failed = delivery in {"retrying", "given_up"} and type(body) is dict
        return Listed(event_id, body if failed else None, delivery)
    else:
        return Listed(event_id, None, "none")
    entry = {"event": kind, "instanceId": instance, "timestamp": created // 1000, "payload": payload}
    return Listed(event_id, entry, delivery)
