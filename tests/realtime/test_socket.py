"""The socket against the real channel layer: who gets what, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction

from leadengine.accounts.models import AuditLog, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import create_api_key
from leadengine.asgi import application
from leadengine.realtime import hub as hub_module
from leadengine.realtime.broadcast import group_of
from tests.conftest import World
from tests.whatsapp.inbound import text_event
from tickets.models import QueueMembership, Ticket
from whatsapp.services.drain import drain_inbox
from whatsapp.services.intake import Collector, split_entries

pytestmark = pytest.mark.django_db(transaction=True)
ORIGIN = (b"origin", settings.PUBLIC_BASE_URL.encode())


def cookie_of(user: User) -> tuple[bytes, bytes]:
    session = SessionStore()
    session[SESSION_KEY], session[BACKEND_SESSION_KEY] = str(user.pk), "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return b"cookie", f"{settings.SESSION_COOKIE_NAME}={session.session_key}".encode()


def communicator(*headers: tuple[bytes, bytes], path: str = "/ws/") -> WebsocketCommunicator:
    return WebsocketCommunicator(application, path, headers=list(headers))


@asynccontextmanager
async def connected(user: User) -> AsyncIterator[WebsocketCommunicator]:
    socket = communicator(await sync_to_async(cookie_of)(user), ORIGIN)
    assert (await socket.connect())[0]
    assert (await next_frame(socket))["event"] == "ready"
    await _subscribed_to_redis()
    try:
        yield socket
    finally:
        await socket.disconnect()


async def _subscribed_to_redis() -> None:
    """Wait until the hub's listeners have really joined their groups."""
    rooms = hub_module.hub().rooms.values()
    layer: Any = get_channel_layer()
    while any(f"asgi__group__{group_of(room.tenant_id)}" not in layer._get_layer().groups for room in rooms):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def next_frame(socket: WebsocketCommunicator, timeout: float = 5) -> Any:
    return json.loads(await socket.receive_from(timeout))


async def close_code(socket: WebsocketCommunicator) -> int:
    while True:
        message = await socket.receive_output(10)
        if message["type"] == "websocket.close":
            return int(message["code"])


async def receive(*bodies: Any) -> None:
    """A customer writes, as the door would store it; then the worker drains."""
    collector = Collector()
    from datetime import UTC, datetime

    for body in bodies:
        raw = json.dumps(body).encode()
        await collector.store(
            split_entries(raw=raw, parsed=json.loads(raw), request_id="t", received_at=datetime.now(UTC))
        )
    await collector.close()
    await sync_to_async(drain_inbox)()


async def frames_until_quiet(socket: WebsocketCommunicator) -> list[Any]:
    frames = []
    while not await socket.receive_nothing(0.3):
        frames.append(await next_frame(socket))
    return frames


async def test_a_message_reaches_members_and_nobody_else(committed_world: World) -> None:
    world = committed_world
    async with connected(world.agent) as agent, connected(world.outsider) as outsider:
        await receive(text_event("Oi, tudo bem?"))
        frames = await frames_until_quiet(agent)
        assert [f["event"] for f in frames] == ["messages.new", "ticket.updated", "lead.updated"]
        data = frames[0]["data"]
        assert (data["preview"], data["position"], data["isNewTicket"]) == ("Oi, tudo bem?", 1, True)
        assert frames[1]["data"]["timeline"]["unansweredCount"] == 1
        assert await outsider.receive_nothing(0.3)


async def test_the_open_thread_gets_ticket_message_with_ids_and_delta(committed_world: World) -> None:
    async with connected(committed_world.agent) as agent:
        await receive(text_event("um"))
        await frames_until_quiet(agent)
        ticket = await sync_to_async(_only_ticket)(committed_world)
        await agent.send_to(json.dumps({"event": "subscribe", "data": {"ticketId": str(ticket.pk)}, "ref": "r1"}))
        subscribed = await next_frame(agent)
        assert subscribed["event"] == "subscribed" and subscribed["ref"] == "r1"
        assert subscribed["data"]["cursor"] == "1.1"
        await receive(text_event("dois", external_id="DOIS"))
        frames = {f["event"]: f["data"] for f in await frames_until_quiet(agent)}
        grown = frames["ticket.message"]
        assert grown["position"] == 2 and grown["message"]["content"] == "dois"
        assert grown["metadata"]["broker"]["messageId"] == "DOIS"
        assert set(grown["metadata"]["broker"]["timestamps"]) == {"sent", "received", "processed"}
        assert grown["timeline"]["messageCount"] == 2


async def test_agents_outside_the_queue_hear_nothing_and_lose_what_is_taken(committed_world: World) -> None:
    world = committed_world
    await sync_to_async(_set_visibility)(world.agent2, "OWN")
    async with connected(world.agent) as agent, connected(world.agent2) as other:
        await receive(text_event("Oi"))
        assert "messages.new" in [f["event"] for f in await frames_until_quiet(agent)]
        assert [f["event"] for f in await frames_until_quiet(other)] == ["lead.updated"]
        ticket = await sync_to_async(_only_ticket)(world)
        await other.send_to(json.dumps({"event": "subscribe", "data": {"ticketId": str(ticket.pk)}}))
        assert (await next_frame(other))["data"]["code"] == "NOT_FOUND"


async def test_a_foreign_or_unknown_ticket_is_refused_written_down_and_ends_the_socket(committed_world: World) -> None:
    world = committed_world
    await receive(text_event("segredo", instance="cedro-01"))
    foreign = await sync_to_async(_only_ticket)(world, tenant=world.cedro.pk)
    async with connected(world.agent) as agent:
        for n in range(4):
            ticket = str(foreign.pk) if n % 2 else str(uuid4())
            await agent.send_to(json.dumps({"event": "subscribe", "data": {"ticketId": ticket}}))
            assert (await next_frame(agent))["data"]["code"] == "NOT_FOUND"
        await agent.send_to(json.dumps({"event": "subscribe", "data": {"ticketId": str(foreign.pk)}}))
        assert await close_code(agent) == 4403
    assert await sync_to_async(_count_refusals)(world) == 5


async def test_nobody_foreign_origins_and_query_tokens_are_closed_4401(committed_world: World) -> None:
    cookie = await sync_to_async(cookie_of)(committed_world.agent)
    key = await sync_to_async(_key_of)(committed_world.agent)
    for socket in (
        communicator(ORIGIN),
        communicator(cookie, (b"origin", b"https://evil.example")),
        communicator(cookie),
        communicator(ORIGIN, path=f"/ws/?token={key}"),
        communicator((b"x-api-key", b"0" * 64)),
    ):
        assert (await socket.connect())[0]
        assert await close_code(socket) == 4401
    socket = communicator((b"authorization", f"Bearer {key}".encode()))
    assert (await socket.connect())[0]
    assert (await next_frame(socket))["event"] == "ready"
    await socket.disconnect()


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (["no json", "[]", '{"event": 1}'], 4400),
        (["x" * 5000], 4413),
        (['{"event": "pong"}'] * 41, 4429),
    ],
)
async def test_bad_clients_are_closed(committed_world: World, frames: list[str], code: int) -> None:
    async with connected(committed_world.agent) as agent:
        for text in frames:
            await agent.send_to(text)
        assert await close_code(agent) == code


async def test_deactivation_closes_within_five_seconds(committed_world: World) -> None:
    async with connected(committed_world.agent) as agent:
        await sync_to_async(User.objects.filter(pk=committed_world.agent.pk).update)(is_active=False)
        assert await asyncio.wait_for(close_code(agent), 6) == 4401


async def test_lost_events_are_noticed_and_the_client_is_told_to_look(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "DIVERGENCE_SECONDS", 1)
    async with connected(committed_world.agent) as agent:
        from leadengine.realtime import broadcast

        monkeypatch.setattr(broadcast, "_publish", lambda batches: None)
        await receive(text_event("perdida no caminho"))
        assert (await next_frame(agent, 6))["event"] == "resync"


async def test_no_event_leaves_a_transaction_that_rolls_back(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leadengine.realtime.broadcast import broadcast
    from leadengine.realtime.events import PresenceUpdated

    def attempt() -> None:
        from django.utils import timezone

        with tenant_scope(committed_world.ipe.pk):
            try:
                with transaction.atomic():
                    broadcast(_availability(committed_world, timezone.now(), "AWAY"))
                    raise ValueError
            except ValueError:
                broadcast(_availability(committed_world, timezone.now(), "ONLINE"))

    async with connected(committed_world.agent) as agent:
        monkeypatch.setattr(PresenceUpdated, "audience", "tenant")
        await sync_to_async(attempt)()
        frames = await frames_until_quiet(agent)
        assert [f["data"]["availability"] for f in frames] == ["ONLINE"]


async def test_presence_appears_to_colleagues_and_lapses(committed_world: World) -> None:
    world = committed_world
    await receive(text_event("Oi"))
    ticket = await sync_to_async(_only_ticket)(world)
    subscribe = json.dumps({"event": "subscribe", "data": {"ticketId": str(ticket.pk)}})
    async with connected(world.agent) as ana, connected(world.agent2) as bruno:
        for socket in (ana, bruno):
            await socket.send_to(subscribe)
            await next_frame(socket)
        typing = {"event": "presence", "data": {"ticketId": str(ticket.pk), "state": "typing"}}
        await ana.send_to(json.dumps(typing))
        seen = await next_frame(bruno)
        assert seen["event"] == "presence.updated"
        assert [(u["name"], u["state"]) for u in seen["data"]["users"]] == [("Ana", "typing")]
        lapsed = await next_frame(bruno, 12)
        assert [u["state"] for u in lapsed["data"]["users"]] == ["viewing"]


def _availability(world: World, at: Any, availability: str) -> Any:
    from leadengine.realtime.events import PresenceUpdated

    return PresenceUpdated(tenant_id=world.ipe.pk, at=at, user_id=world.agent.pk, availability=availability)


def _only_ticket(world: World, tenant: Any = None) -> Ticket:
    with tenant_scope(tenant or world.ipe.pk):
        return Ticket.objects.get()


def _set_visibility(user: User, visibility: str) -> None:
    with service_scope("test"):
        QueueMembership.objects.filter(user=user).update(visibility=visibility)


def _count_refusals(world: World) -> int:
    with tenant_scope(world.ipe.pk):
        return AuditLog.objects.filter(action="socket.refused").count()


def _key_of(user: User) -> str:
    return create_api_key(owner=user, tenant_id=user.tenant_id, name="t")[0]  # type: ignore[arg-type]
