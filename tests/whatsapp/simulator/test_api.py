"""Routes beyond what tests/whatsapp/contract holds: several keys, streams with a token, numbers of old, slashes."""

from __future__ import annotations

from aiohttp import ClientSession

from tests.whatsapp.simulator.conftest import KEY, MARIA, Broker, StartBroker


async def test_every_route_but_health_wants_a_key(broker: Broker) -> None:
    await broker.open()
    async with ClientSession() as stranger:
        calls = [
            ("GET", "/instances"),
            ("POST", "/instances/loja1/send-text"),
            ("GET", "/stream"),
            ("GET", "/_sim/state"),
        ]
        for method, path in calls:
            async with stranger.request(method, broker.url + path) as response:
                assert (response.status, await response.json()) == (401, {"error": "unauthorized"})
        bearer = {"authorization": f"Bearer {KEY}"}
        async with stranger.get(broker.url + "/instances", headers=bearer) as response:
            assert response.status == 401
        for query in (f"apiKey={KEY}", "apiKey=second-key"):
            async with stranger.get(f"{broker.url}/instances?{query}") as response:
                assert response.status == 200
        async with stranger.get(broker.url + "/health") as response:
            assert response.status == 200
            assert [one["id"] for one in (await response.json())["instances"]] == ["loja1"]


async def test_a_number_without_its_ninth_digit_is_found_under_both(broker: Broker) -> None:
    await broker.open()
    await broker.inbound({"from": "555199873169", "text": "oi"})
    _, answer = await broker.call("POST", "/instances/loja1/exists", {"to": "5551999873169"})
    assert answer["results"][0]["jid"] == "555199873169@s.whatsapp.net"


async def test_streams_open_with_a_token_and_show_state_and_events(broker: Broker) -> None:
    await broker.open()
    _, made = await broker.call("POST", "/instances/sse-token")
    assert sorted(made) == ["expiresAt", "token", "ttlSeconds"]
    async with ClientSession() as stranger:
        async with stranger.get(f"{broker.url}/instances/events?iid=loja1&sseToken={made['token']}") as stream:
            assert stream.content_type == "text/event-stream"
            assert await stream.content.readline() == b"event: instance\n"
            assert b'"connectionState":"open"' in await stream.content.readline()
            await broker.call("POST", "/_sim/loja1/close", {"statusCode": 428})
            await stream.content.readline()
            assert await stream.content.readline() == b"event: instance\n"
            assert b'"reason":"error"' in await stream.content.readline()
        await broker.inbound({"from": MARIA, "text": "oi"})
        async with stranger.get(f"{broker.url}/stream?sseToken={made['token']}") as stream:
            first = (await stream.content.readline()).decode()
            assert first.startswith("id: evt_")
            assert await stream.content.readline() == b"event: broker:event\n"
            assert b'"type":"MESSAGE_INBOUND"' in await stream.content.readline()
        async with stranger.get(f"{broker.url}/instances?sseToken={made['token']}") as response:
            assert response.status == 401


async def test_trailing_slashes_do_not_matter(start: StartBroker) -> None:
    broker = await start(profile="real")
    await broker.open()
    assert (await broker.call("GET", "/instances/loja1/"))[0] == 200
    assert (await broker.call("GET", "/instances/loja1/groups/"))[0] == 200
