"""The socket `/ws/` (spec/inbox.md section 19): frames `{"event", "data", "ref"?}`, rights checked per delivery."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import Any
from uuid import UUID

import structlog
from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from django.conf import settings
from django.utils import timezone

from leadengine import metrics
from leadengine.realtime import presence
from leadengine.realtime.broadcast import broadcast, frame
from leadengine.realtime.events import Facets, PresenceUpdated
from leadengine.realtime.gate import Caller, Sees, Standing, gate
from leadengine.realtime.hub import Room, hub

log = structlog.get_logger(__name__)

MAX_FRAME, MAX_SUBSCRIPTIONS, MAX_BAD_FRAMES, MAX_REFUSALS = 4096, 20, 3, 5
PRESENCE_EVERY = 2.0
BACKLOG = 1000  # frames a slow socket may be behind before it loses some


class SocketConsumer(AsyncConsumer):
    """One browser tab or integration."""

    channel_layer_alias = "none"  # the hub listens for the whole process; a channel per socket would cost each time

    caller: Caller
    viewer: Sees
    room: Room

    async def websocket_connect(self, _message: dict[str, Any]) -> None:
        """Accept, then say who we think it is, or close with a code that says why not."""
        self.tickets: set[UUID] = set()
        self.closed = False
        self.heard_at = time.monotonic()
        self._frames: deque[float] = deque()
        self._bad_frames = 0
        self._refusals: deque[float] = deque()
        self._presence_at: dict[UUID, float] = {}
        self._outbox: asyncio.Queue[str] = asyncio.Queue(BACKLOG)
        self._pump: asyncio.Task[None] | None = None
        await self.send({"type": "websocket.accept"})
        caller = await database_sync_to_async(gate().identify)(self.scope)
        if caller is None:
            await self.end(4401)
            return
        viewers = await database_sync_to_async(gate().viewers)(caller.tenant_id, [caller.user_id])
        if caller.user_id not in viewers:
            await self.end(4401)
            return
        self.caller, self.viewer = caller, viewers[caller.user_id]
        if hub().sockets_of(caller.user_id) >= settings.REALTIME_MAX_SOCKETS_PER_USER:
            await self.end(4429)
            return
        self._pump = asyncio.create_task(self._run_pump())
        await hub().join(self)
        metrics.ws_connections.inc()
        self.push(
            frame(
                "ready",
                {
                    "userId": str(caller.user_id),
                    "tenantId": str(caller.tenant_id),
                    "serverTime": timezone.now().isoformat().replace("+00:00", "Z"),
                    "heartbeatSeconds": settings.REALTIME_HEARTBEAT_SECONDS,
                },
            )
        )

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """One frame of the client; the limits come before its meaning."""
        if self.closed or self._pump is None:
            return
        self.heard_at = now = time.monotonic()
        text = message.get("text")
        if len((text or "").encode()) > MAX_FRAME or len(message.get("bytes") or b"") > MAX_FRAME:
            await self.end(4413)
            return
        self._frames.append(now)
        while self._frames and now - self._frames[0] > 10:
            self._frames.popleft()
        if len(self._frames) > settings.REALTIME_MAX_FRAMES_PER_10S:
            await self.end(4429)
            return
        parsed = _parse(text)
        if parsed is None:
            self._bad_frames += 1
            if self._bad_frames >= MAX_BAD_FRAMES:
                await self.end(4400)
            else:
                self.push(frame("error", {"code": "BAD_FRAME", "message": 'Envie {"event", "data"}.'}))
            return
        event, data, ref = parsed
        if event == "subscribe":
            await self._subscribe(data.get("ticketId"), ref)
        elif event == "unsubscribe":
            await self._unsubscribe(data.get("ticketId"), ref)
        elif event == "presence":
            await self._report_presence(data)

    async def websocket_disconnect(self, _message: dict[str, Any]) -> None:
        """The other end is gone."""
        await self._forget()
        raise StopConsumer

    def push(self, text: str) -> None:
        """Queue a frame. A socket that is too slow loses it; the ping's cursor repairs that."""
        try:
            self._outbox.put_nowait(text)
        except asyncio.QueueFull:
            metrics.ws_dropped.inc()

    async def end(self, code: int) -> None:
        """Close with a code of spec/inbox.md section 19."""
        if self.closed:
            return
        self.closed = True
        metrics.ws_closed.labels(code=str(code)).inc()
        await self._forget()
        await self.send({"type": "websocket.close", "code": code})

    async def _subscribe(self, ticket: Any, ref: str | None) -> None:
        ticket_id = _uuid(ticket)
        standing = await self._standing(ticket_id) if ticket_id else None
        if ticket_id is None or standing is None:
            await self._refuse(str(ticket), ref)
            return
        if len(self.tickets) >= MAX_SUBSCRIPTIONS and ticket_id not in self.tickets:
            self.push(frame("error", {"code": "TOO_MANY_SUBSCRIPTIONS", "message": "No máximo 20."}, ref))
            return
        self.tickets.add(ticket_id)
        self.room.standings[ticket_id] = standing
        users = await asyncio.to_thread(presence.present, self.caller.tenant_id, ticket_id)
        # Looked at again after joining, so that nothing that happened in between falls through.
        standing = await self._standing(ticket_id) or standing
        self.push(frame("subscribed", {"ticketId": str(ticket_id), "cursor": standing.cursor, "users": users}, ref))

    async def _standing(self, ticket_id: UUID) -> Standing | None:
        found: dict[UUID, Standing] = await database_sync_to_async(gate().standings)(self.caller.tenant_id, [ticket_id])
        standing = found.get(ticket_id)
        if standing is None or not self.viewer.sees(standing.queue_id, standing.assignee_id):
            return None
        return standing

    async def _refuse(self, ticket: str, ref: str | None) -> None:
        """Unknown, foreign and invisible get the same answer; it is written down, and five a minute end the socket."""
        await database_sync_to_async(gate().refused)(self.caller.tenant_id, self.caller.user_id, ticket)
        log.warning("socket_subscription_refused", user_id=str(self.caller.user_id))
        now = time.monotonic()
        self._refusals.append(now)
        while now - self._refusals[0] > 60:
            self._refusals.popleft()
        if len(self._refusals) >= MAX_REFUSALS:
            await self.end(4403)
            return
        self.push(frame("error", {"code": "NOT_FOUND", "message": "Conversa não encontrada."}, ref))

    async def _unsubscribe(self, ticket: Any, ref: str | None) -> None:
        ticket_id = _uuid(ticket)
        if ticket_id in self.tickets:
            self.tickets.discard(ticket_id)
            await self._tell_presence(ticket_id, None)
        self.push(frame("unsubscribed", {"ticketId": str(ticket)}, ref))

    async def _report_presence(self, data: dict[str, Any]) -> None:
        ticket_id, state = _uuid(data.get("ticketId")), data.get("state")
        now = time.monotonic()
        if ticket_id not in self.tickets or state not in presence.STATES:
            return
        if now - self._presence_at.get(ticket_id, -PRESENCE_EVERY) < PRESENCE_EVERY:
            return
        self._presence_at[ticket_id] = now
        await self._tell_presence(ticket_id, state)

    async def _tell_presence(self, ticket_id: UUID, state: str | None) -> None:
        standing = self.room.standings.get(ticket_id)
        if standing is not None:
            await database_sync_to_async(_publish_presence)(self.caller, ticket_id, state, standing)

    async def _forget(self) -> None:
        if self._pump is None:
            return
        pump, self._pump = self._pump, None
        metrics.ws_connections.dec()
        await hub().leave(self)
        for ticket_id in self.tickets:
            await self._tell_presence(ticket_id, None)
        if pump is not asyncio.current_task():
            pump.cancel()

    async def _run_pump(self) -> None:
        while True:
            await self.base_send({"type": "websocket.send", "text": await self._outbox.get()})


def _publish_presence(caller: Caller, ticket_id: UUID, state: str | None, standing: Standing) -> None:
    if state is None:
        presence.leave(caller, ticket_id)
    else:
        presence.report(caller, ticket_id, state)
    users = presence.present(caller.tenant_id, ticket_id)
    event = PresenceUpdated.model_validate(
        {
            "tenant_id": caller.tenant_id, "at": timezone.now(), "ticket_id": ticket_id, "users": users,
            "ttl_seconds": presence.VIEWING_SECONDS,
        }
    )  # fmt: skip
    broadcast(event, Facets(ticket_id=ticket_id, queue_id=standing.queue_id, assignee_id=standing.assignee_id))


def _parse(text: str | None) -> tuple[str, dict[str, Any], str | None] | None:
    try:
        body = json.loads(text or "")
    except ValueError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("event"), str):
        return None
    data, ref = body.get("data", {}), body.get("ref")
    return (body["event"], data, ref if isinstance(ref, str) else None) if isinstance(data, dict) else None


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None
