"""The integrator's side in tests: a real HTTP server that keeps what it got and answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, user_scope
from leadengine.webhooks.models import EVENTS, Attempt, Delivery, Endpoint
from leadengine.webhooks.services.endpoints import create_endpoint


@dataclass(frozen=True)
class Got:
    """One request, its header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """`answer(got)` gives a status, or (status, headers, body)."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answer: Callable[[Got], Any] = lambda _: 200
        self.asked = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Got(self.path, headers, self.rfile.read(int(headers["content-length"])))
                receiver.got.append(got)
                receiver.asked.set()
                answer = receiver.answer(got)
                status, more, body = answer if isinstance(answer, tuple) else (answer, {}, b"ok")
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign] # a caller that was killed
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def ids(self) -> list[str]:
        return [one.id for one in self.got]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver while the block lasts."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


def connect(actor: User, url: str, *events: str, **more: Any) -> tuple[Endpoint, str]:
    """An endpoint of the person's tenant for these events (all of them without any), and its secret."""
    assert actor.tenant_id is not None
    with user_scope(actor):
        return create_endpoint(
            actor=actor, tenant_id=actor.tenant_id, url=url, events=events or EVENTS, now=timezone.now(), **more
        )


def deliveries(endpoint: Endpoint | None = None) -> list[Delivery]:
    """All deliveries (of an endpoint), the oldest first, their events with them."""
    with service_scope("test"):
        rows = Delivery.objects.select_related("event").order_by("id")
        return list(rows.filter(endpoint=endpoint) if endpoint else rows)


def attempts() -> list[Attempt]:
    """All tries, by delivery and number."""
    with service_scope("test"):
        return list(Attempt.objects.order_by("delivery_id", "number"))


def due_now() -> None:
    """What waits for its next try waits no longer; what a lost worker held is free."""
    with service_scope("test"):
        Delivery.objects.filter(status__in=["PENDING", "SENDING"]).update(next_attempt_at=timezone.now())


def now_of(endpoint: Endpoint) -> Endpoint:
    """The endpoint as it is stored now."""
    with service_scope("test"):
        found: Endpoint = Endpoint.objects.get(pk=endpoint.pk)
        return found
