"""The broker's list of events (spec/broker.md section 6): the catch-up of a client that missed webhooks."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import dropwhile, islice
from typing import Any, Literal

from whatsapp.simulator.ids import Ids

ACKED_KEPT = 500
BACKLOG = 200
Direction = Literal["inbound", "outbound", "system"]


@dataclass(slots=True)
class Delivery:
    """How the webhook of an event fared."""

    state: Literal["pending", "retry", "success", "failed"] = "pending"
    attempts: int = 0
    last_attempt_at: int | None = None
    last_status: int | None = None
    last_error: str | None = None


@dataclass(slots=True)
class Event:
    """One entry; the body of a webhook stays as bytes, shared by its attempts, until someone reads it."""

    id: str
    sequence: int
    instance_id: str
    direction: Direction
    type: str
    payload: dict[str, Any]
    created_at: int
    delivery: Delivery | None = None
    body: bytes | None = None
    acknowledged: bool = False

    def as_json(self) -> dict[str, Any]:
        """Writes the entry as the broker does."""
        payload = self.payload if self.body is None else {**self.payload, "body": json.loads(self.body)}
        return {
            "id": self.id,
            "sequence": self.sequence,
            "instanceId": self.instance_id,
            "direction": self.direction,
            "type": self.type,
            "payload": payload,
            "createdAt": self.created_at,
            "acknowledged": self.acknowledged,
            "delivery": self.delivery
            and {
                "state": self.delivery.state,
                "attempts": self.delivery.attempts,
                "lastAttemptAt": self.delivery.last_attempt_at,
                "lastStatus": self.delivery.last_status,
                "lastError": self.delivery.last_error,
            },
        }


@dataclass(slots=True)
class _Shelf:
    unacked: dict[str, Event] = field(default_factory=dict)
    acked: deque[Event] = field(default_factory=lambda: deque(maxlen=ACKED_KEPT))


class EventLog:
    """Keeps un-acked events for ever (or up to `keep`), acked ones to 500, and feeds the open streams."""

    def __init__(self, ids: Ids, *, keep: int | None) -> None:
        self._ids = ids
        self._keep = keep
        self._sequence = 0
        self._shelves: dict[str, _Shelf] = {}
        self._recent: deque[Event] = deque(maxlen=BACKLOG)
        self._streams: set[asyncio.Queue[Event]] = set()

    def add(
        self,
        instance_id: str,
        direction: Direction,
        type_: str,
        payload: dict[str, Any],
        *,
        now: float,
        delivery: Delivery | None = None,
        body: bytes | None = None,
    ) -> Event:
        """Appends an event and tells the streams; the oldest un-acked one goes when there are more than `keep`."""
        self._sequence += 1
        event = Event(
            self._ids.event(),
            self._sequence,
            instance_id,
            direction,
            type_,
            payload,
            int(now * 1000),
            delivery,
            body,
        )
        shelf = self._shelves.setdefault(instance_id, _Shelf())
        shelf.unacked[event.id] = event
        if self._keep is not None and len(shelf.unacked) > self._keep:
            del shelf.unacked[next(iter(shelf.unacked))]
        self._recent.append(event)
        for stream in self._streams:
            stream.put_nowait(event)
        return event

    def page(
        self, instance_id: str, *, limit: int, after: str | None, type_: str | None, direction: str | None
    ) -> list[Event]:
        """Lists un-acked events, oldest first, after the given one; an unknown `after` starts from the beginning."""
        shelf = self._shelves.get(instance_id, _Shelf())
        start = self._sequence_of(shelf, after)
        later: Iterable[Event] = dropwhile(lambda event: event.sequence <= start, shelf.unacked.values())
        wanted = (e for e in later if type_ in (None, e.type) and direction in (None, e.direction))
        return list(islice(wanted, limit))

    def ack(self, instance_id: str, ids: list[str]) -> tuple[list[str], list[str]]:
        """Acknowledges events; gives the ids it found and those it did not (an acked event counts as found)."""
        shelf = self._shelves.setdefault(instance_id, _Shelf())
        known = {event.id for event in shelf.acked}
        found: list[str] = []
        missing: list[str] = []
        for event_id in ids:
            event = shelf.unacked.pop(event_id, None)
            if event is not None:
                event.acknowledged = True
                shelf.acked.append(event)
            (found if event is not None or event_id in known else missing).append(event_id)
        return found, missing

    def forget(self, instance_id: str | None = None) -> None:
        """Drops the events of an instance, or all."""
        if instance_id is None:
            self._shelves.clear()
            self._recent.clear()
        else:
            self._shelves.pop(instance_id, None)

    def subscribe(self, last_event_id: str | None) -> asyncio.Queue[Event]:
        """Opens a stream that begins with the backlog, or with what came after the given event."""
        backlog = list(self._recent)
        seen = [index for index, event in enumerate(backlog) if event.id == last_event_id]
        stream: asyncio.Queue[Event] = asyncio.Queue()
        for event in backlog[seen[0] + 1 :] if seen else backlog:
            stream.put_nowait(event)
        self._streams.add(stream)
        return stream

    def unsubscribe(self, stream: asyncio.Queue[Event]) -> None:
        """Closes a stream."""
        self._streams.discard(stream)

    @staticmethod
    def _sequence_of(shelf: _Shelf, event_id: str | None) -> int:
        if event_id is None:
            return 0
        if event_id in shelf.unacked:
            return shelf.unacked[event_id].sequence
        return next((event.sequence for event in shelf.acked if event.id == event_id), 0)
