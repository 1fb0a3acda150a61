"""The closed product (`manage.py maintenance on --closed`): 503 everywhere but where its health is asked for.

It stands before everything that the web process serves: pages, APIs, the webhook door, files and sockets.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import psycopg
import structlog
from django.conf import settings
from django.template.loader import render_to_string

from leadengine.envelope import error_body
from leadengine.errors import DomainError
from leadengine.ids import uuid7

log = structlog.get_logger(__name__)
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Send], Awaitable[None]]

HEALTH = frozenset({"/health", "/healthz", "/ready", "/metrics", "/api/baileys-simple/health"})
LOOK = 2.0  # seconds that an answer of the database is used
PATIENCE = 1.0  # seconds that a request waits for one; without it the product counts as open
RETRY_AFTER = 30
TRY_AGAIN_LATER = 1013  # why a socket is closed


class ProductClosed(DomainError):
    """O sistema está em manutenção. Tente de novo em alguns minutos."""

    code = "MAINTENANCE"
    status = 503


class Sign:
    """What the maintenance row says, read at most every LOOK seconds by this process, and by one thread.

    On a connection of its own, past the pool: whoever closes an exhausted product must be heard.
    """

    def __init__(self) -> None:
        self.closed = False
        self._at = float("-inf")
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="closed")
        self._reading: Future[None] | None = None

    def is_closed(self) -> bool:
        """For threads."""
        if (reading := self._look()) is not None:
            wait([reading], PATIENCE)
        return self.closed

    async def is_closed_async(self) -> bool:
        """For the event loop."""
        if (reading := self._look()) is not None:
            await asyncio.wait([asyncio.wrap_future(reading)], timeout=PATIENCE)
        return self.closed

    def forget(self) -> None:
        """Read again at the next question."""
        self._at = float("-inf")

    def _look(self) -> Future[None] | None:
        if time.monotonic() - self._at <= LOOK:
            return None
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = self._threads.submit(self._read)
            return self._reading

    def _read(self) -> None:
        try:
            with psycopg.connect(settings.DATABASE_URL, connect_timeout=2) as connection:
                connection.execute("SET statement_timeout = 1000")
                # Not `is_on`: a restore closes the product and brings the connections back meanwhile.
                row = connection.execute("SELECT closed FROM whatsapp_maintenance WHERE id = 1").fetchone()
            self.closed = bool(row and row[0])
        except psycopg.Error as error:
            self.closed = False  # what cannot work says so itself
            log.warning("maintenance_not_read", error=type(error).__name__)
        self._at = time.monotonic()


sign = Sign()


def closable(inner: Application) -> Application:
    """The application, or a refusal while the product is closed."""

    async def application(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        shut = scope["type"] in {"http", "websocket"} and scope["path"].rstrip("/") not in HEALTH
        if not (shut and await sign.is_closed_async()):
            await inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
        else:
            await _refuse(scope, send)

    return application


async def _refuse(scope: dict[str, Any], send: Send) -> None:
    """503: a page for people, the envelope for programs."""
    error = ProductClosed(retryAfter=RETRY_AFTER)
    accepted = next((value for name, value in scope["headers"] if name.lower() == b"accept"), b"")
    request_id = uuid7().hex
    if b"text/html" in accepted:
        kind, body = b"text/html; charset=utf-8", render_to_string("closed.html", {"sentence": error.message}).encode()
    else:
        envelope = error_body(error.code, error.message, error.details, request_id)
        kind, body = b"application/json", json.dumps(envelope, ensure_ascii=False).encode()
    headers = [
        (b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store"),
        (b"retry-after", str(RETRY_AFTER).encode()), (b"x-request-id", request_id.encode()),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
