"""The routes of spec/broker.md section 2: status, content type, names and types of fields, refusals."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.whatsapp.simulator.conftest import KEY, MARIA, Broker, StartBroker

SNAPSHOT = {
    "id": str,
    "name": str,
    "connected": bool,
    "connectionState": str,
    "connectionUpdatedAt": int,
    "connectionStateDetail": None,
    "user": dict,
    "qrVersion": int,
    "hasLastQr": bool,
    "qrReceivedAt": None,
    "qrExpiresAt": None,
    "pairingAttempts": int,
    "lastError": None,
    "note": str,
    "metadata": dict,
    "counters": dict,
    "last": dict,
    "rate": dict,
    "risk": dict,
    "network": dict,
    "pairedAt": int,
    "queue": dict,
}
SUMMARY = (
    "id name note metadata connected connectionState connectionUpdatedAt user counters rate network risk queue pairedAt"
)


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


async def test_unknown_addresses_answer_html(broker: Broker) -> None:
    for method, path, status in [
        ("GET", "/anything", 200),
        ("GET", "/", 200),
        ("POST", "/anything", 404),
        ("GET", "/instances/loja1/nothing", 404),
        ("PUT", "/instances", 404),
    ]:
        async with broker.session.request(method, broker.url + path) as response:
            assert (response.status, response.content_type) == (status, "text/html"), path


@pytest.mark.parametrize(
    ("body", "message"),
    [(b'{"to": ', "Expecting value"), (b'{"to": "' + b"5" * 1_048_576 + b'"}', "request entity too large")],
)
async def test_bad_json_and_a_large_body_are_both_500(body: bytes, message: str, broker: Broker) -> None:
    await broker.open()
    headers = {"content-type": "application/json"}
    url = broker.url + "/instances/loja1/send-text"
    async with broker.session.post(url, data=BytesIO(body), headers=headers) as response:
        answer = await response.json()
        assert (response.status, answer["error"]) == (500, "internal_server_error")
        assert message in answer["message"]


async def test_create_makes_the_id_out_of_the_name(broker: Broker) -> None:
    body = {
        "name": "Loja Centro (2)!",
        "note": "n",
        "instanceId": "other",
        "webhookUrl": "http://evil",
        "tenantId": "t",
    }
    status, made = await broker.call("POST", "/instances", body)
    assert status == 200
    assert (made["id"], made["name"], made["metadata"]["note"]) == ("loja-centro-2-", "Loja Centro (2)!", "n")
    assert sorted(made) == ["dir", "id", "metadata", "name"]
    assert sorted(made["metadata"]) == ["createdAt", "note", "revisions", "updatedAt"]
    assert (await broker.call("POST", "/instances/", body)) == (409, {"error": "instance_exists"})
    unnamed = (await broker.call("POST", "/instances", {}))[1]["id"]
    assert len(unnamed) == 36
    assert (await broker.snapshot(unnamed))["connectionState"] == "connecting"


async def test_the_list_is_a_bare_array_of_summaries_and_one_is_a_snapshot(broker: Broker) -> None:
    await broker.open()
    status, listed = await broker.call("GET", "/instances")
    assert (status, [list(one) for one in listed]) == (200, [SUMMARY.split()])
    snapshot = await broker.snapshot()
    assert list(snapshot) == list(SNAPSHOT)
    for name, kind in SNAPSHOT.items():
        assert snapshot[name] is None if kind is None else isinstance(snapshot[name], kind), name
    assert snapshot["user"]["id"].endswith(":1@s.whatsapp.net")
    assert sorted(snapshot["rate"]) == ["inWindow", "limit", "usage", "windowMs"]
    assert await broker.call("GET", "/instances/nobody") == (404, {"error": "instance_not_found"})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "no_updates"),
        ({"name": "x" * 81}, "name_invalid"),
        ({"name": 5}, "name_invalid"),
        ({"name": "  "}, "name_empty"),
        ({"note": "x" * 281}, "note_invalid"),
    ],
)
async def test_patch_refuses(body: dict[str, Any], error: str, broker: Broker) -> None:
    await broker.open()
    assert await broker.call("PATCH", "/instances/loja1", body) == (400, {"error": error})


async def test_patch_renames_and_keeps_the_id(broker: Broker) -> None:
    await broker.open()
    status, snapshot = await broker.call("PATCH", "/instances/loja1", {"name": "Matriz", "note": "a primeira"})
    assert (status, snapshot["id"], snapshot["name"], snapshot["note"]) == (200, "loja1", "Matriz", "a primeira")
    assert len(snapshot["metadata"]["revisions"]) == 1


async def test_delete_removes_all_but_the_default_instance(broker: Broker) -> None:
    await broker.open()
    await broker.open("default")
    status, answer = await broker.call("DELETE", "/instances/loja1")
    assert (status, answer["ok"], sorted(answer)) == (200, True, ["message", "ok"])
    assert (await broker.call("DELETE", "/instances/loja1"))[0] == 404
    assert await broker.call("DELETE", "/instances/default") == (400, {"error": "default_instance_cannot_be_deleted"})


async def test_exists_check_number_picture_and_groups(broker: Broker) -> None:
    await broker.open()
    jid = f"{MARIA}@s.whatsapp.net"
    found = (200, {"results": [{"jid": jid, "exists": True}]})
    assert await broker.call("POST", "/instances/loja1/exists", {"to": "+55 11 98888-7777"}) == found
    assert (await broker.call("POST", "/instances/loja1/exists", {}))[0] == 400
    assert await broker.call("GET", f"/instances/loja1/check-number?number={MARIA}") == (
        200,
        {"exists": True, "jid": jid},
    )
    assert (await broker.call("GET", "/instances/loja1/check-number"))[0] == 400
    assert await broker.call("GET", "/instances/loja1/profile-pic?number=5511") == (200, {"profilePicUrl": None})
    await broker.inbound({"from": MARIA, "text": "oi", "group": {"id": "12036304", "subject": "Vizinhos"}})
    assert await broker.call("GET", "/instances/loja1/groups") == (
        200,
        [{"id": "12036304@g.us", "subject": "Vizinhos"}],
    )
    await broker.call("POST", "/_sim/loja1/behaviour", {"exists": False})
    assert await broker.call("POST", "/instances/loja1/exists", {"to": MARIA}) == (200, {"results": []})
    await broker.call("POST", "/_sim/loja1/behaviour", {"offline": True})
    for path in ("check-number?number=5511", "profile-pic?number=5511", "groups"):
        assert (await broker.call("GET", f"/instances/loja1/{path}"))[0] == 503


async def test_a_number_without_its_ninth_digit_is_found_under_both(broker: Broker) -> None:
    await broker.open()
    await broker.inbound({"from": "555199873169", "text": "oi"})
    _, answer = await broker.call("POST", "/instances/loja1/exists", {"to": "5551999873169"})
    assert answer["results"][0]["jid"] == "555199873169@s.whatsapp.net"


async def test_message_status_forgets_what_is_final(broker: Broker) -> None:
    await broker.open(autoAck=[])
    _, sent = await broker.text()
    path = f"/instances/loja1/status?id={sent['id']}"
    assert await broker.call("GET", path) == (200, {"id": sent["id"], "status": 1})
    for status, shown in ((2, 2), (3, None), (0, None)):
        await broker.call("POST", "/_sim/loja1/ack", {"id": sent["id"], "status": status})
        assert (await broker.call("GET", path))[1]["status"] == shown
    assert await broker.call("GET", "/instances/loja1/status") == (400, {"error": "id obrigatório"})


async def test_metrics_count_what_became_of_the_messages(broker: Broker) -> None:
    await broker.open(autoAck=[])
    _, sent = await broker.text()
    await broker.text()
    await broker.call("POST", "/_sim/loja1/ack", {"id": sent["id"], "status": 4})
    status, metrics = await broker.call("GET", "/instances/loja1/metrics")
    counts = {"pending": 1, "serverAck": 0, "delivered": 0, "read": 1, "played": 0, "failed": 0, "inFlight": 1}
    assert (status, metrics["delivery"]) == (200, counts)
    assert metrics["snapshot"]["id"] == "loja1"
    assert sum(minute["sent"] for minute in metrics["timeline"]) == 2
    assert (await broker.call("GET", "/instances/loja1/metrics?to=1"))[1]["timeline"] == []


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
