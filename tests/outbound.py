"""Sending in tests: the real simulator in a thread, its webhooks kept until the test lets them in, and short ways."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from channels.layers import get_channel_layer
from django.db import connection
from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, tenant_scope, user_scope
from leadengine.realtime.broadcast import group_of
from leadengine.redis import client
from tests.conftest import World
from tests.whatsapp.inbound import receive, text_event
from tickets.models import Message, Ticket
from tickets.services.outbox import Queued, queue_message, send_due
from tickets.services.outbox.claiming import Claim, take_turn
from tickets.transports import Line
from whatsapp.simulator.cli import serving
from whatsapp.simulator.core import Config

KEY = "broker-key-1"
MARIA = "+5511988887777"


class Hook:
    """Where the broker's webhooks arrive. They are answered at once and processed when the test says so."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self.status = 202
        self.key = ""  # refuses every other with 401
        self.hold: Callable[[], Any] = lambda: None
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.times.append(time.monotonic())
                hook.bodies.append(body)
                hook.hold()
                wrong = hook.key and self.headers.get("x-api-key") != hook.key
                self.send_response(401 if wrong else hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def let_in(self) -> int:
        """Store and process what has arrived; says how many webhooks."""
        bodies, self.bodies = self.bodies, []
        if bodies:
            receive(*bodies)
        return len(bodies)


class Broker:
    """The simulator over HTTP, as a test sees it."""

    def __init__(self, url: str, hook: Hook) -> None:
        self.url = url
        self.hook = hook

    def control(self, path: str, body: Any = None, method: str = "POST") -> Any:
        answer = requests.request(
            method, f"{self.url}/_sim/{path}", json=body or {}, headers={"x-api-key": KEY}, timeout=10
        )
        assert answer.ok, answer.text
        return answer.json()

    def behave(self, instance: str = "ipe-01", **keys: Any) -> None:
        """Set behaviours of an instance; none resets."""
        self.control(f"{instance}/behaviour", keys)

    def sent(self, instance: str = "ipe-01") -> list[dict[str, Any]]:
        """All that left to WhatsApp, oldest first."""
        found: list[dict[str, Any]] = self.control(f"{instance}/sent", method="GET")
        return found

    def asked(self, instance: str = "ipe-01") -> int:
        """How many sends it admitted lately, those included that it still types."""
        answer = requests.get(f"{self.url}/instances/{instance}", headers={"x-api-key": KEY}, timeout=10)
        return int(answer.json()["rate"]["inWindow"])

    def texts(self, instance: str = "ipe-01") -> list[str]:
        return [one["text"] for one in self.sent(instance)]

    def settle(self, done: Callable[[], Any], seconds: float = 10) -> None:
        """Let webhooks in until a condition holds."""
        until(lambda: [self.hook.let_in(), done()][1], seconds)


@contextmanager
def broker_running(**config: Any) -> Iterator[Broker]:
    """A simulator with its instance `ipe-01` open, served by a thread of its own."""
    hook, started = Hook(), threading.Event()
    found: list[Any] = []
    made = {"api_keys": (KEY,), "webhook_url": hook.url, "webhook_key": "hook-key", "hmac_secret": KEY} | config

    async def serve() -> None:
        ended = asyncio.Event()
        async with serving(Config(**made)) as (_, url):
            found[:] = [url, asyncio.get_running_loop(), ended]
            started.set()
            await ended.wait()

    threads = [
        threading.Thread(target=asyncio.run, args=[serve()]),
        threading.Thread(target=hook.server.serve_forever, args=[0.02]),
    ]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    url, loop, ended = found
    try:
        broker = Broker(url, hook)
        broker.control("ipe-01/open")
        yield broker
    finally:
        loop.call_soon_threadsafe(ended.set)
        hook.server.shutdown()
        for thread in threads:
            thread.join(10)
        hook.server.server_close()


@contextmanager
def answering_never() -> Iterator[str]:
    """A broker that takes every call and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def events_of(world: World) -> Iterator[Callable[[], list[tuple[str, Any]]]]:
    """Listen to the tenant's realtime events; the call gives those so far as (name, data), in order."""
    layer: Any = get_channel_layer()
    told: list[tuple[str, Any]] = []
    listener: Any
    with client().pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(f"{layer.prefix}__group__{group_of(world.ipe.pk)}")
        until(lambda: (listener.get_message() or {}).get("type") == "subscribe")

        def read() -> list[tuple[str, Any]]:
            while (found := listener.get_message(timeout=0.2)) is not None:
                for item in layer.deserialize(found["data"])["items"]:
                    frame = json.loads(item["frame"])
                    told.append((frame["event"], frame["data"]))
            return told

        yield read


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.02)


def conversation(world: World, text: str = "Oi", **event: Any) -> Ticket:
    """A customer wrote: their ticket. Times are whole seconds, as the broker's."""
    event.setdefault("sent_at", datetime.now(UTC).replace(microsecond=0))
    receive(text_event(text, **event))
    with tenant_scope(world.ipe.pk):
        found: Ticket = Ticket.objects.filter(contact__identities__value=event.get("phone", MARIA)).latest("number")
        return found


def accept(world: World, ticket: Ticket, text: str = "Olá", *, author: User | None = None, **more: Any) -> Queued:
    """Accept a text as an agent's composer would; committed."""
    author = author or world.agent
    fields: dict[str, Any] = {"payload": {"text": text}, "now": timezone.now()} | more
    with user_scope(author):
        return queue_message(ticket_id=ticket.pk, author=author, **fields)


def queue(world: World, ticket: Ticket, text: str = "Olá", **more: Any) -> Message:
    """The row of an accepted text."""
    return accept(world, ticket, text, **more).message


def send(world: World) -> datetime | None:
    """What the sender's task does for the test's line."""
    return send_due(session_id=world.line.pk)


def claim_due(*, line: Line, now: datetime) -> list[Claim]:
    """Claim the due rows of a line as its sender does."""
    return take_turn(line=line, now=now).claims


def reload(message: Message) -> Message:
    with service_scope("test"):
        found: Message = Message.objects.select_related("author").get(pk=message.pk)
        return found


def due_now(world: World) -> None:
    """Let every waiting row be due: time passes."""
    with tenant_scope(world.ipe.pk):
        Message.objects.filter(status="QUEUED").update(not_before=datetime(2020, 1, 1, tzinfo=UTC))


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs in threads that start together; their results or exceptions, in order."""
    gate = threading.Barrier(len(jobs))
    results: list[Any] = [None] * len(jobs)

    def run(index: int, job: Callable[[], Any]) -> None:
        gate.wait()
        try:
            results[index] = job()
        except Exception as error:
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
