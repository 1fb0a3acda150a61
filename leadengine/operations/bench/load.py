"""The load generator: a process of its own, raw sockets, no Django. Reads a Plan as JSON, prints a Result as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import aiohttp

from leadengine.operations.bench.bodies import Writer, messages, order, request

_LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
_NUMBER = re.compile(r"#(\d{9})")
WARM_UP = 0.4  # seconds
BODY = 1024  # bytes of a webhook where nothing but the door is measured


@dataclass
class Plan:
    """What to send: `constant` and `accept` as fast as the connections allow, all else (`doors` too) at a rate."""

    mode: str
    port: int
    lines: list[str]
    seconds: float
    run: int
    connections: int = 32
    rate: float = 0  # messages per second, two webhooks each
    tokens: list[str] = field(default_factory=list)  # API keys for the sockets, one per line
    doors: list[list[str]] = field(default_factory=list)  # of `doors`: [API key, path], in turn

    @property
    def messages(self) -> int:
        """How many messages are sent at a rate."""
        return int(self.seconds * self.rate)


@dataclass
class Result:
    """What came of it. Times in milliseconds."""

    sent: int
    seconds: float
    statuses: dict[str, int]
    p50: float
    p99: float
    delivered: int = 0
    warm_up: int = 0  # requests before the clock was started, not in `sent`
    p95: float = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.waiting: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self.buffer, 0, end)
        if len(self.buffer) >= end + 4 + (int(length[1]) if length else 0):
            status, self.buffer = int(self.buffer[9:12]), b""
            self._answer(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._answer(0)

    def ask(self, data: bytes) -> asyncio.Future[int]:
        """Send a request; the future gives its status, 0 for a lost connection."""
        self.waiting = asyncio.get_running_loop().create_future()
        if self.transport is None:
            self._answer(0)
        else:
            self.transport.write(data)
        return self.waiting

    def _answer(self, status: int) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(status)


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.times: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.posted: dict[int, float] = {}
        self.seen: dict[int, float] = {}

    async def run(self) -> Result:
        """Send all, wait for the answers, and with `latency` for the frames."""
        at_once = self.plan.mode in {"constant", "accept"}
        requests = deque(self._requests())
        connections = [await self._connect() for _ in range(self.plan.connections)]
        sent = warm_up = 0
        async with contextlib.AsyncExitStack() as stack:
            if self.plan.tokens:
                await self._listen(stack)
            if at_once:
                await self._flood(connections, requests, WARM_UP)
                warm_up = len(self.times)
                self.times.clear()
            began = time.perf_counter()
            if at_once:
                await self._flood(connections, requests, self.plan.seconds)
            else:
                await self._pace(connections, requests, began)
            seconds = time.perf_counter() - began
            if self.plan.tokens:
                await self._settle()
        sent = len(self.times)
        if self.plan.tokens:
            self.times = [self.seen[number] - self.posted[number] for number in self.seen]
        self.times.sort()
        return Result(
            sent, seconds, dict(self.statuses), self._quantile(0.5), self._quantile(0.99), len(self.seen), warm_up,
            self._quantile(0.95),
        )  # fmt: skip

    def _requests(self) -> Iterator[tuple[int, bytes]]:
        """(number of the message, request) in the order of sending; more than will be needed where nobody knows."""
        plan = self.plan
        if plan.mode in {"constant", "accept"}:
            writer = Writer(BODY)
            most = 500 if plan.mode == "constant" else int(plan.seconds * 6000)
            for message in messages(plan.run, plan.lines, most):
                yield message.number, request(writer.twins(message)[0], plan.port)
            return
        if plan.mode == "doors":
            for number in range(plan.messages):
                key, path = plan.doors[number % len(plan.doors)]
                yield number, order(plan.run, number, path, key, plan.port)
            return
        writer = Writer()
        for message in messages(plan.run, plan.lines, plan.messages):
            for body in writer.twins(message):
                yield message.number, request(body, plan.port)

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.plan.port)
        return connection

    async def _flood(
        self, connections: Sequence[Connection], requests: deque[tuple[int, bytes]], seconds: float
    ) -> None:
        """Every connection sends its next request as soon as the last is answered."""
        end = time.perf_counter() + seconds

        async def run(connection: Connection) -> None:
            while requests and time.perf_counter() < end:
                item = requests.popleft()
                if self.plan.mode == "constant":
                    requests.append(item)
                await self._post(connection, item[1], time.perf_counter())

        await asyncio.gather(*map(run, connections))

    async def _pace(
        self, connections: Sequence[Connection], requests: Iterable[tuple[int, bytes]], began: float
    ) -> None:
        """Each request leaves at its time, whatever became of the others; its time counts from then."""
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in connections:
            free.put_nowait(connection)
        tasks = []
        for index, (number, data) in enumerate(requests):
            due = began + index / (self.plan.rate * (1 if self.plan.mode == "doors" else 2))
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.posted.setdefault(number, due)
            tasks.append(asyncio.create_task(self._post_later(free, data, due)))
        await asyncio.gather(*tasks)

    async def _post_later(self, free: asyncio.Queue[Connection], data: bytes, due: float) -> None:
        connection = await free.get()
        await self._post(connection, data, due)
        free.put_nowait(connection if connection.transport else await self._connect())

    async def _post(self, connection: Connection, data: bytes, due: float) -> None:
        status = await connection.ask(data)
        self.statuses[str(status)] += 1
        self.times.append(time.perf_counter() - due)

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        """Open a socket per tenant, as an agent's browser would."""
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for token in self.plan.tokens:
            url, headers = f"http://127.0.0.1:{self.plan.port}/ws/", {"X-API-Key": token}
            socket = await stack.enter_async_context(session.ws_connect(url, headers=headers, max_msg_size=0))
            while (await socket.receive_json(timeout=10))["event"] != "ready":
                pass
            stack.push_async_callback(_end, asyncio.create_task(self._hear(socket)))

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            at = time.perf_counter()
            if frame.type == aiohttp.WSMsgType.TEXT and '"messages.new"' in frame.data[:40]:
                for number in _NUMBER.findall(frame.data):
                    self.seen.setdefault(int(number), at)

    async def _settle(self) -> None:
        """Wait a moment for the last frames."""
        end = time.perf_counter() + 5
        while len(self.seen) < len(self.posted) and time.perf_counter() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _quantile(self, share: float) -> float:
        return round(self.times[int(len(self.times) * share)] * 1000, 2) if self.times else 0.0


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """Run the plan on standard input."""
    plan = Plan(**json.load(sys.stdin))
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    print(json.dumps(asdict(asyncio.run(Load(plan).run()))))  # noqa: T201


if __name__ == "__main__":
    main()
