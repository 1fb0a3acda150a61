"""The door under a burst, and its size limit held while reading (spec/inbound.md section 3, spec/broker.md 11.18)."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.asgi import application
from tests.conftest import World
from tests.whatsapp.door import KEY, PATH, acall
from tests.whatsapp.inbound import text_event
from tickets.models import Message
from whatsapp.api import webhook
from whatsapp.models import WebhookEvent
from whatsapp.services.drain import drain_inbox

pytestmark = pytest.mark.django_db(transaction=True)
BURST, SECONDS, PATIENCE = 300, 2.0, 5.0
LIMIT = 20_971_520


def run(coroutine: Any) -> Any:
    """Run in a loop of its own, and give the collector's connection back."""

    async def guarded() -> Any:
        try:
            return await coroutine
        finally:
            collector = webhook._collectors.pop(asyncio.get_running_loop(), None)
            if collector is not None:
                await collector.close()

    return async_to_sync(guarded)()


def test_three_hundred_webhooks_in_two_seconds_are_answered_and_stored_once(committed_world: World) -> None:
    bodies = [json.dumps(text_event(f"rajada {n}", external_id=f"B{n}")).encode() for n in range(BURST)]

    async def one(number: int, body: bytes) -> tuple[int, float]:
        await asyncio.sleep(number * SECONDS / BURST)
        began = time.perf_counter()
        answer = await acall("POST", body, KEY, path=PATH, query="", address="10.1.1.1", chunk=65_536)
        return answer.status, time.perf_counter() - began

    async def burst() -> list[tuple[int, float]]:
        return list(await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies))))

    answers = run(burst())
    assert {status for status, _ in answers} == {202}
    assert max(took for _, took in answers) < PATIENCE
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert WebhookEvent.objects.count() == BURST
        stored = list(Message.objects.values_list("external_id", flat=True))
        assert len(stored) == BURST and set(stored) == {f"B{n}" for n in range(BURST)}


@pytest.mark.parametrize("declared", [None, "10", "1000000000"], ids=["missing", "a lie", "true"])
def test_a_body_beyond_the_limit_takes_no_more_memory_than_the_limit(
    committed_world: World, declared: str | None
) -> None:
    """Ten times the limit is offered; whoever reads it all would need 200 MB."""
    part = b"x" * 1_048_576
    handed = itertools.count()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": part, "more_body": next(handed) < 200}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = {**KEY, **({"content-length": declared} if declared else {})}
    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("10.1.1.1", 4242), "server": ("testserver", 80), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip
    tracemalloc.start()
    try:
        run(application(scope, receive, send))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["error"]["code"] == "WEBHOOK_BODY_TOO_LARGE"
    assert next(handed) <= (3 if declared == "1000000000" else 23), "it stopped reading"
    assert peak < 2.5 * LIMIT
    with service_scope("test"):
        [event] = WebhookEvent.objects.all()
        assert (event.status, event.reason) == ("REJECTED", "body_too_large")
        assert zlib.decompress(bytes(event.body or b"")) == part[:65_536]


def test_a_body_of_the_limit_is_taken(committed_world: World) -> None:
    event = text_event("x")
    event["payload"]["message"]["padding"] = ""
    with override_settings(WHATSAPP_WEBHOOK_MAX_BODY_BYTES=65_536):
        event["payload"]["message"]["padding"] = "p" * (65_536 - len(json.dumps(event)))
        raw = json.dumps(event).encode()
        assert len(raw) == 65_536
        answers = [
            run(acall("POST", body, KEY, path=PATH, query="", address="10.1.1.1", chunk=1000))
            for body in (raw, raw + b" ")
        ]
    assert [answer.status for answer in answers] == [202, 413]
