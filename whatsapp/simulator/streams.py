"""The two event streams (SSE), and the tokens that open them without the key."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from whatsapp.simulator.api import Route, answer
from whatsapp.simulator.core import SSE_TOKEN_SECONDS, Simulator, instance_news
from whatsapp.simulator.wire import Json, encode

INSTANCE_PING_SECONDS = 25
STREAM_PING_SECONDS = 15


class Streams:
    """What a client follows instead of asking again and again."""

    def __init__(self, simulator: Simulator) -> None:
        self._sim = simulator

    def routes(self) -> list[Route]:
        """Lists method, path and handler; they stand before the routes with an instance's id."""
        return [
            ("GET", "/stream", self.stream),
            ("POST", "/instances/sse-token", self.sse_token),
            ("GET", "/instances/events", self.instance_events),
        ]

    async def sse_token(self, _request: web.Request) -> web.Response:
        """POST /instances/sse-token."""
        token, until = self._sim.make_sse_token(time.time())
        return answer({"token": token, "expiresAt": int(until * 1000), "ttlSeconds": SSE_TOKEN_SECONDS})

    async def instance_events(self, request: web.Request) -> web.StreamResponse:
        """GET /instances/events (SSE): the present state of all, then each change; `iid` takes one."""
        wanted = request.query.get("iid")
        news: asyncio.Queue[Json] = asyncio.Queue()
        for instance in self._sim.instances.values():
            news.put_nowait(instance_news("connection", self._sim.snapshot(instance)))
        self._sim.watchers.add(news)
        response = await _open_stream(request)
        try:
            while True:
                item = await _next(news, INSTANCE_PING_SECONDS)
                if item is None:
                    await response.write(_sse("ping", {"timestamp": int(time.time() * 1000)}))
                elif wanted in (None, item["instance"]["id"]):
                    await response.write(_sse("instance", item))
        except ConnectionResetError:
            return response  # the reader has gone
        finally:
            self._sim.watchers.discard(news)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /stream (SSE): the event list of all instances as it grows, after a backlog of 200."""
        events = self._sim.events.subscribe(request.headers.get("last-event-id"))
        response = await _open_stream(request)
        try:
            while True:
                event = await _next(events, STREAM_PING_SECONDS)
                if event is None:
                    await response.write(_sse("ping", {"timestamp": int(time.time() * 1000)}))
                else:
                    await response.write(_sse("broker:event", event.as_json(), event.id))
        except ConnectionResetError:
            return response  # the reader has gone
        finally:
            self._sim.events.unsubscribe(events)


async def _open_stream(request: web.Request) -> web.StreamResponse:
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    return response


async def _next(queue: asyncio.Queue[Any], seconds: float) -> Any:
    try:
        return await asyncio.wait_for(queue.get(), seconds)
    except TimeoutError:
        return None


def _sse(event: str, data: Json, id_: str | None = None) -> bytes:
    head = f"id: {id_}\n" if id_ else ""
    return head.encode() + f"event: {event}\ndata: ".encode() + encode(data) + b"\n\n"
