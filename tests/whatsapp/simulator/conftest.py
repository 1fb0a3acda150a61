"""A simulator on a random port and a webhook receiver, both real HTTP servers in the test's own loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientSession, web

from whatsapp.simulator.cli import serving
from whatsapp.simulator.core import Config, Simulator

KEY = "broker-key-1"
HOOK_KEY = "hook-key"
MARIA = "5511988887777"


@dataclass
class Received:
    """One webhook as it arrived."""

    headers: dict[str, str]
    raw: bytes
    at: float

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def event(self) -> str:
        return str(self.body["event"])


@dataclass
class Hook:
    """The receiver: records, and answers as the test says."""

    url: str = ""
    got: list[Received] = field(default_factory=list)
    status: int = 202
    delay: float = 0
    busy: int = 0
    busiest: int = 0
    followed: int = 0

    async def receive(self, request: web.Request) -> web.Response:
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        self.got.append(Received(dict(request.headers), await request.read(), time.monotonic()))
        await asyncio.sleep(self.delay)
        self.busy -= 1
        headers = {"location": "/elsewhere"} if 300 <= self.status < 400 else {}
        return web.json_response({"accepted": True, "queued": 1}, status=self.status, headers=headers)

    async def follow(self, request: web.Request) -> web.Response:
        self.followed += 1
        return web.Response()

    def events(self) -> list[str]:
        return [one.event for one in self.got]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one.body["payload"] for one in self.got if one.event == event]

    async def wait(self, count: int, event: str | None = None, seconds: float = 10) -> list[Received]:
        """Waits until so many webhooks (of a kind) have arrived."""
        await until(lambda: len(self.received(event)) >= count, seconds)
        return self.received(event)

    def received(self, event: str | None) -> list[Received]:
        return [one for one in self.got if event in (None, one.event)]


@dataclass
class Broker:
    """A running simulator and a client with its key."""

    simulator: Simulator
    url: str
    session: ClientSession

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """Calls the broker; gives status and JSON (or bytes)."""
        async with self.session.request(method, self.url + path, json=body, **more) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if response.content_type == "application/json" else raw

    async def open(self, name: str = "loja1", **keys: Any) -> str:
        """Makes an open instance with the given behaviours."""
        assert (await self.call("POST", f"/_sim/{name}/open", {}))[0] == 200
        if keys:
            assert (await self.call("POST", f"/_sim/{name}/behaviour", keys))[0] == 200
        return name

    async def text(self, to: str = MARIA, message: str = "Olá", name: str = "loja1") -> tuple[int, Any]:
        return await self.call("POST", f"/instances/{name}/send-text", {"to": to, "message": message})

    async def inbound(self, body: Any, name: str = "loja1") -> list[str]:
        status, answer = await self.call("POST", f"/_sim/{name}/inbound", body)
        assert status == 200, answer
        return list(answer["ids"])

    async def sent(self, name: str = "loja1") -> Any:
        return (await self.call("GET", f"/_sim/{name}/sent"))[1]

    async def snapshot(self, name: str = "loja1") -> Any:
        return (await self.call("GET", f"/instances/{name}"))[1]


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for a condition, a few times a frame."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


StartBroker = Callable[..., Awaitable[Broker]]


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    receiver = Hook()
    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/hook", receiver.receive)
    app.router.add_get("/elsewhere", receiver.follow)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest.fixture
async def start(hook: Hook) -> AsyncIterator[StartBroker]:
    """Starts simulators that end with the test."""
    async with AsyncExitStack() as stack:

        async def begin(*, port: int = 0, **config: Any) -> Broker:
            settings = {
                "api_keys": (KEY, "second-key"),
                "webhook_url": hook.url,
                "webhook_key": HOOK_KEY,
                "hmac_secret": KEY,
            }
            simulator, url = await stack.enter_async_context(serving(Config(**settings | config), port=port))
            session = await stack.enter_async_context(ClientSession(headers={"x-api-key": KEY}))
            return Broker(simulator, url, session)

        yield begin


@pytest.fixture
async def broker(start: StartBroker) -> Broker:
    """A simulator of the profile demo."""
    return await start()
