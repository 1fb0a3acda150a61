"""The hub: one Redis subscription per tenant and process, whatever the number of sockets.

The channel layer delivers a batch once per process; the hub applies the visibility policy for each socket and hands
it the ready text. With one group member per socket, the same load was delivered at a fourteenth of the rate, and
bursts lost nine frames in ten (docs/explanation/architecture.md).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import Error as DatabaseError

from leadengine import metrics
from leadengine.realtime import presence
from leadengine.realtime.broadcast import frame, group_of
from leadengine.realtime.gate import Standing, gate
from leadengine.redis import UNAVAILABLE, client

if TYPE_CHECKING:
    from leadengine.realtime.consumer import SocketConsumer

log = structlog.get_logger(__name__)

TICK = 1.0
VALIDITY_SECONDS, RIGHTS_SECONDS, DIVERGENCE_SECONDS = 4, 15, 5
SILENCE_SECONDS = 60
Item = dict[str, Any]


class Hub:
    """All sockets of this process and event loop."""

    def __init__(self) -> None:
        self.rooms: dict[UUID, Room] = {}
        self._clock: asyncio.Task[None] | None = None
        self._redis_run = ""

    async def join(self, socket: SocketConsumer) -> None:
        """Let a socket hear its tenant's events. Raises what Redis raises only on a broken configuration."""
        room = self.rooms.get(socket.caller.tenant_id)
        if room is None:
            room = self.rooms[socket.caller.tenant_id] = Room(socket.caller.tenant_id)
            room.start()
        room.sockets.add(socket)
        socket.room = room
        if self._clock is None or self._clock.done():
            self._clock = asyncio.create_task(self._run_clock())

    async def leave(self, socket: SocketConsumer) -> None:
        """Forget a socket; the last one of a tenant ends the subscription."""
        room = self.rooms.get(socket.caller.tenant_id)
        if room is None:
            return
        room.sockets.discard(socket)
        if not room.sockets:
            del self.rooms[room.tenant_id]
            await room.stop()

    def sockets_of(self, user_id: UUID) -> int:
        """How many sockets a person has open here."""
        return sum(1 for room in self.rooms.values() for socket in room.sockets if socket.caller.user_id == user_id)

    async def _run_clock(self) -> None:
        """Once a second, while there are sockets: whatever is due of pings, rights, validity and divergence."""
        last: dict[str, float] = defaultdict(time.monotonic)
        duties = (
            ("validity", VALIDITY_SECONDS, self._check_validity),
            ("rights", RIGHTS_SECONDS, self._reload_rights),
            ("divergence", DIVERGENCE_SECONDS, self._check_divergence),
            ("ping", settings.REALTIME_HEARTBEAT_SECONDS, self._ping),
            ("presence", 2, self._lapse_presence),
        )
        while self.rooms:
            await asyncio.sleep(TICK)
            for name, seconds, duty in duties:
                if time.monotonic() - last[name] < seconds:
                    continue
                last[name] = time.monotonic()
                try:
                    await duty()
                except DatabaseError as error:
                    log.warning("hub_duty_failed", duty=name, error=type(error).__name__)

    async def _check_validity(self) -> None:
        sockets = [socket for room in self.rooms.values() for socket in room.sockets]
        valid = await database_sync_to_async(gate().still_valid)([socket.caller for socket in sockets])
        for socket in sockets:
            if socket.caller not in valid:
                await socket.end(4401)

    async def _reload_rights(self) -> None:
        for room in list(self.rooms.values()):
            viewers = await database_sync_to_async(gate().viewers)(
                room.tenant_id, {socket.caller.user_id for socket in room.sockets}
            )
            for socket in list(room.sockets):
                viewer = viewers.get(socket.caller.user_id)
                if viewer is None:
                    await socket.end(4401)
                elif viewer != socket.viewer:
                    socket.viewer = viewer
                    socket.push(frame("reload", {"reason": "access"}))

    async def _check_divergence(self) -> None:
        """Where PostgreSQL is ahead of what was heard, or Redis was away, tell the browsers to look."""
        interrupted = await asyncio.to_thread(self._redis_was_interrupted)
        for room in list(self.rooms.values()):
            changed = await database_sync_to_async(gate().last_change)(room.tenant_id)
            behind = changed is not None and room.heard_until < changed.timestamp() < time.time() - 1
            if behind or interrupted:
                if changed is not None:
                    room.heard_until = max(room.heard_until, changed.timestamp())
                metrics.realtime_divergence.inc()
                for socket in room.sockets:
                    socket.push(frame("resync", {}))

    def _redis_was_interrupted(self) -> bool:
        try:
            run = str(client().info("server")["run_id"])
        except UNAVAILABLE:
            run = ""
        interrupted = bool(run) and bool(self._redis_run) and run != self._redis_run
        self._redis_run = run or "away"
        return interrupted

    async def _ping(self) -> None:
        for room in list(self.rooms.values()):
            wanted = {ticket_id for socket in room.sockets for ticket_id in socket.tickets}
            standings = await database_sync_to_async(gate().standings)(room.tenant_id, wanted)
            room.standings.update(standings)
            for socket in list(room.sockets):
                if time.monotonic() - socket.heard_at > SILENCE_SECONDS:
                    await socket.end(4408)
                    continue
                cursors = {str(key): standings[key].cursor for key in socket.tickets if key in standings}
                socket.push(frame("ping", {"cursors": cursors}))

    async def _lapse_presence(self) -> None:
        for room in list(self.rooms.values()):
            for ticket_id in [key for key, users in room.presence.items() if users]:
                users = await asyncio.to_thread(presence.present, room.tenant_id, ticket_id)
                room.show_presence(ticket_id, users)


class Room:
    """The sockets of one tenant in this process, and the subscription that feeds them."""

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        self.sockets: set[SocketConsumer] = set()
        self.standings: dict[UUID, Standing] = {}
        self.presence: dict[UUID, list[dict[str, Any]]] = {}
        self.heard_until = time.time()
        self._listener: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen to the tenant's group."""
        self._listener = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """End the subscription."""
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener

    async def _listen(self) -> None:
        layer: Any = get_channel_layer()
        while True:
            try:
                channel = await layer.new_channel()
                await layer.group_add(group_of(self.tenant_id), channel)
                while True:
                    self.deliver(await layer.receive(channel))
            except UNAVAILABLE as error:
                log.warning("hub_without_redis", error=type(error).__name__)
                await asyncio.sleep(1)

    def deliver(self, message: dict[str, Any]) -> None:
        """Hand each event of a batch to the sockets that may see it."""
        self.heard_until = max(self.heard_until, message["published"])
        for item in message["items"]:
            facets = _Facets(item["facets"])
            if item["event"] == "presence.updated" and facets.ticket_id:
                self.presence[facets.ticket_id] = json.loads(item["frame"])["data"]["users"]
            for socket in self.sockets:
                text = self._choose(item, facets, socket)
                if text is not None:
                    socket.push(text)
        metrics.ws_delivery_seconds.observe(max(0.0, time.time() - message["published"]))

    def _choose(self, item: Item, facets: _Facets, socket: SocketConsumer) -> str | None:
        audience, viewer, text = item["audience"], socket.viewer, str(item["frame"])
        if audience == "tenant":
            return text
        if audience == "supervisors":
            return text if viewer.is_supervisor else None
        if audience == "owner":
            full = viewer.is_supervisor or facets.owner_id == socket.caller.user_id
            return text if full else item.get("short")
        if audience == "subscribers" and facets.ticket_id not in socket.tickets:
            return None
        if viewer.sees(facets.queue_id, facets.assignee_id):
            return text
        if item["event"] == "ticket.updated" and facets.moved and viewer.sees(*facets.before):
            socket.tickets.discard(facets.ticket_id)
            return frame("ticket.updated", {"ticketId": str(facets.ticket_id), "removed": True})
        return None

    def show_presence(self, ticket_id: UUID, users: list[dict[str, Any]]) -> None:
        """Tell this process's subscribers of a ticket who is there, when that changed by lapse of time."""
        if users == self.presence.get(ticket_id):
            return
        self.presence[ticket_id] = users
        data = {"ticketId": str(ticket_id), "users": users, "ttlSeconds": presence.VIEWING_SECONDS}
        for socket in self.sockets:
            if ticket_id in socket.tickets:
                socket.push(frame("presence.updated", data))


class _Facets:
    """The facets of an event, with real ids."""

    __slots__ = ("assignee_id", "before", "moved", "owner_id", "queue_id", "ticket_id")

    def __init__(self, raw: dict[str, str]) -> None:
        ids = {name: UUID(value) for name, value in raw.items()}
        self.ticket_id, self.queue_id = ids.get("ticket_id"), ids.get("queue_id")
        self.assignee_id, self.owner_id = ids.get("assignee_id"), ids.get("owner_id")
        self.moved = "previous_queue_id" in ids or "previous_assignee_id" in ids
        self.before = (ids.get("previous_queue_id", self.queue_id), ids.get("previous_assignee_id"))


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def hub() -> Hub:
    """The hub of the running event loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())
