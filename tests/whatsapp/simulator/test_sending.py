"""The order of the checks of section 4, its limits and its traps."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from typing import Any

import pytest
from aiohttp import ClientSession, ServerDisconnectedError, web

from tests.whatsapp.simulator.conftest import MARIA, Broker, Hook, StartBroker, until
from whatsapp.simulator.media import ASSETS
from whatsapp.simulator.sending import typing_seconds

OUTBOUND = "MESSAGE_OUTBOUND"
UPSERT = "WHATSAPP_MESSAGES_UPSERT"


async def test_the_webhook_arrives_before_the_answer_of_its_send(broker: Broker, hook: Hook) -> None:
    await broker.open()
    hook.delay = 0.2
    started = time.monotonic()
    status, answer = await broker.text(message="Olá Maria")
    assert time.monotonic() - started >= 0.2
    assert (status, answer["status"], answer["id"]) == (200, 1, answer["messageId"])
    outbound = hook.of(OUTBOUND)[0]
    assert outbound["message"]["id"] == answer["id"]
    assert outbound["contact"]["owner"] == "device"
    assert [one["text"] for one in await broker.sent()] == ["Olá Maria"]


async def test_a_refusing_webhook_holds_the_send_for_the_whole_schedule(broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={"retryScale": 0.001}, autoAck=[])
    hook.status = 401
    started = time.monotonic()
    assert (await broker.text())[0] == 200
    assert time.monotonic() - started >= 0.164
    assert hook.events().count(OUTBOUND) == 6


async def test_checks_come_in_the_listed_order(start: StartBroker) -> None:
    broker = await start(profile="real", webhook_url=None)
    nothing: dict[str, Any] = {}
    path = "/instances/loja1/send-text"
    assert await broker.call("POST", path, nothing) == (404, {"error": "instance_not_found"})
    everything: dict[str, Any] = {
        "offline": True,
        "rate": {"max": 0},
        "exists": False,
        "socketUnavailable": True,
        "sendError": "boom",
        "humanizeMsPerChar": 0,
    }
    await broker.open(**everything)
    lift: list[tuple[Any, int, str | None, dict[str, Any]]] = [
        ({"to": "1"}, 503, "instance_offline", {"offline": False}),
        ({"to": "1"}, 429, "rate limit exceeded", {"rate": {"max": 50}}),
        ({"to": "1"}, 400, "Campos obrigatórios: to, message", {}),
        ({"to": "1", "message": "x"}, 400, "to inválido. Use E.164: 55DDDNUMERO", {"x": 1}),
        ({"to": MARIA, "message": "x"}, 404, "whatsapp_not_found", {"exists": True}),
        ({"to": MARIA, "message": "x"}, 429, "risk_paused", {"risk": {"threshold": 1}}),
        ({"to": MARIA, "message": "x"}, 503, "socket_unavailable", {"socketUnavailable": False}),
        ({"to": MARIA, "message": "x"}, 500, "send_failed", {"sendError": None}),
        ({"to": MARIA, "message": "x"}, 200, None, {}),
    ]
    await broker.call("POST", "/instances/loja1/risk/pause")
    for body, status, error, keys in lift:
        got, answer = await broker.call("POST", path, body)
        assert (got, answer.get("error")) == (status, error)
        if status == 503:
            assert isinstance(answer["state"], str)
            assert answer["updatedAt"].endswith("Z")
        if keys and "x" not in keys:
            assert (await broker.call("POST", "/_sim/loja1/behaviour", keys))[0] == 200
        if error == "risk_paused":
            await broker.call("POST", "/instances/loja1/risk/resume")
    assert len(await broker.sent()) == 1


@pytest.mark.parametrize(
    ("to", "chat"),
    [
        (MARIA, MARIA),
        ("+55 (11) 98888-7777", MARIA),
        ("11988887777", MARIA),
        ("1133334444", "551133334444"),
        ("+1 415 555 1234", "5514155551234"),
        (f"{MARIA}@s.whatsapp.net", MARIA),
        ("123456789012345@lid", None),
        ("120363041234567890@g.us", None),
        ("5511", None),
        ("351912345678", None),
    ],
)
async def test_to_is_read_as_the_broker_reads_it(to: str, chat: str | None, broker: Broker) -> None:
    await broker.open()
    status, answer = await broker.text(to)
    if chat is None:
        assert (status, answer["error"]) == (400, "to inválido. Use E.164: 55DDDNUMERO")
    else:
        assert (status, [one["to"] for one in await broker.sent()]) == (200, [chat])


async def test_the_21st_send_in_the_window_is_refused_and_a_refused_one_used_its_slot(start: StartBroker) -> None:
    broker = await start(profile="real")
    await broker.open(humanizeMsPerChar=0, risk={"threshold": 1}, rate={"max": 20, "windowMs": 400})
    assert (await broker.text(to="bad"))[0] == 400
    for _ in range(19):
        assert (await broker.text())[0] == 200
    status, answer = await broker.text()
    assert (status, answer) == (429, {"error": "rate limit exceeded"})
    assert (await broker.snapshot())["rate"] == {"limit": 20, "windowMs": 400, "inWindow": 20, "usage": 1.0}
    await asyncio.sleep(0.45)
    assert (await broker.text())[0] == 200


async def test_risk_pauses_strangers_and_threshold_one_then_resume_lifts_it(start: StartBroker) -> None:
    broker = await start(profile="real")
    await broker.open(humanizeMsPerChar=0)
    stranger, other, known = "5511911110001", "5511911110002", "5511911110003"
    assert (await broker.text(stranger))[0] == 200
    assert await broker.text(other) == (429, {"error": "risk_paused"})
    await broker.inbound({"from": known, "text": "oi"})
    assert (await broker.text(known))[0] == 200
    assert (await broker.call("POST", "/instances/loja1/risk/resume"))[1]["risk"]["paused"] is False
    assert (await broker.text(other))[0] == 200, "two strangers of three are not above 0.7"
    assert (await broker.text("5511911110004"))[0] == 429
    await broker.call("POST", "/instances/loja1/risk/resume")
    assert (await broker.text("5511911110004"))[0] == 429, "resume alone pauses again"
    status, answer = await broker.call("POST", "/instances/loja1/risk", {"threshold": 1})
    assert (status, answer["ok"], answer["risk"]["threshold"]) == (200, True, 1)
    assert (await broker.text("5511911110004"))[0] == 429, "threshold alone does not lift the pause"
    await broker.call("POST", "/instances/loja1/risk/resume")
    assert (await broker.text("5511911110004"))[0] == 200
    refused = await broker.call("POST", "/instances/loja1/risk", {"safeContacts": "x"})
    assert refused == (400, {"error": "safe_contacts_invalid"})
    assert (await broker.call("GET", "/instances/loja1/risk"))[1]["risk"]["unknown"] == 3


@pytest.mark.parametrize(("characters", "seconds"), [(5, 5), (40, 12), (100, 21), (500, 28)])
def test_the_real_broker_types_like_a_person(characters: int, seconds: float) -> None:
    assert typing_seconds(characters, 200) == pytest.approx(seconds)


async def test_typing_past_the_limit_times_out_and_the_message_still_leaves(broker: Broker, hook: Hook) -> None:
    await broker.open(humanizeMsPerChar=10, sendTimeoutMs=150, ackDelayMs=10)
    status, answer = await broker.text(message="Olá Maria")
    assert (status, answer) == (500, {"error": "send timeout"})
    assert await broker.sent() == []
    await hook.wait(3)
    assert sorted(hook.events()) == ["WHATSAPP_MESSAGES_UPDATE", "WHATSAPP_MESSAGES_UPDATE", UPSERT]
    raw = hook.of(UPSERT)[0]["raw"]
    assert (raw["type"], raw["messages"][0]["status"]) == ("append", "PENDING")
    assert len(await broker.sent()) == 1


async def test_send_timeout_leaves_a_second_later_without_outbound(broker: Broker, hook: Hook) -> None:
    await broker.open(sendTimeout=True, sendTimeoutMs=50, autoAck=[])
    started = time.monotonic()
    assert (await broker.text())[0] == 500
    assert time.monotonic() - started < 0.9
    await hook.wait(1)
    assert time.monotonic() - started >= 1
    assert hook.events() == [UPSERT]


async def test_a_slow_send_is_slow_and_right(broker: Broker, hook: Hook) -> None:
    await broker.open(sendDelayMs=300, sendTimeoutMs=100)
    started = time.monotonic()
    assert (await broker.text())[0] == 200
    assert time.monotonic() - started >= 0.3


async def test_drop_response_sends_and_hangs_up(broker: Broker, hook: Hook) -> None:
    await broker.open(dropResponse=True)
    async with ClientSession(headers={"x-api-key": "second-key"}) as session:
        with pytest.raises(ServerDisconnectedError):
            await session.post(broker.url + "/instances/loja1/send-text", json={"to": MARIA, "message": "x"})
    assert len(await broker.sent()) == 1
    assert hook.events().count(OUTBOUND) == 1


async def test_there_is_no_idempotency(broker: Broker) -> None:
    await broker.open()
    body = {"to": MARIA, "message": "x", "externalId": "e1"}
    for _ in range(2):
        await broker.call("POST", "/instances/loja1/send-text", body, headers={"idempotency-key": "k"})
    assert len({one["id"] for one in await broker.sent()}) == 2


async def test_braces_are_altered_by_the_real_broker_only(start: StartBroker) -> None:
    for profile, texts in (("real", {"a x", "b x"}), ("demo", {"{a|b} {x}"})):
        broker = await start(profile=profile)
        await broker.open(humanizeMsPerChar=0)
        await broker.text(message="{a|b} {x}")
        assert {one["text"] for one in await broker.sent()} <= texts


async def test_a_poll_has_no_outbound_and_buttons_are_plain_text(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[])
    poll = {"to": MARIA, "question": "Qual?", "options": ["A", "B"]}
    status, answer = await broker.call("POST", "/instances/loja1/send-poll", poll)
    assert (status, sorted(answer), answer["status"]) == (201, ["id", "status"], 1)
    assert (await broker.call("POST", "/instances/loja1/send-poll", {**poll, "options": ["A"]}))[0] == 400
    await hook.wait(1)
    assert hook.events() == [UPSERT]
    buttons = {"to": MARIA, "text": "Escolha", "options": [{"id": "1", "title": "Sim"}]}
    assert (await broker.call("POST", "/instances/loja1/send-buttons", buttons))[0] == 200
    listing = {"to": MARIA, "text": "Veja", "buttonText": "Abrir", "sections": []}
    assert (await broker.call("POST", "/instances/loja1/send-list", listing))[0] == 200
    assert [one["message"]["text"] for one in hook.of(OUTBOUND)] == ["Escolha", "Veja"]
    assert all("Sim" not in one.raw.decode() for one in hook.got)


async def test_media_is_fetched_or_decoded_and_answered_without_message_id(broker: Broker, hook: Hook) -> None:
    await broker.open()
    picture = (ASSETS / "tenis.jpg").read_bytes()

    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=picture, content_type="image/jpeg", status=int(request.query.get("status", 200)))

    app = web.Application()
    app.router.add_get("/tenis.jpg", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/tenis.jpg"
    path = "/instances/loja1/send-media"
    body = {"to": MARIA, "type": "image", "caption": "veja", "media": {"url": url}}
    status, answer = await broker.call("POST", path, body)
    about = {"type": "image", "mimetype": "image/jpeg", "fileName": "tenis.jpg", "source": "url", "size": len(picture)}
    assert (status, {key: value for key, value in answer.items() if key != "id"}) == (201, {"status": 1, **about})
    outbound = hook.of(OUTBOUND)[0]
    assert (outbound["message"]["type"], outbound["message"]["media"]["size"]) == ("media", len(picture))
    status, answer = await broker.call("POST", path, {**body, "media": {"url": url + "?status=404"}})
    assert (status, answer["error"]) == (400, "media_url_invalid")
    await runner.cleanup()
    small = {"base64": b64encode(b"data").decode(), "mimetype": "application/pdf", "fileName": "a.pdf"}
    status, answer = await broker.call("POST", path, {"to": MARIA, "type": "document", "media": small})
    assert (status, answer["source"], answer["size"], answer["fileName"]) == (201, "base64", 4, "a.pdf")
    assert len(await broker.sent()) == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "to_required"),
        ({"to": MARIA, "type": "gif"}, "type_invalid"),
        ({"to": MARIA, "type": "image"}, "media_invalid"),
        ({"to": MARIA, "type": "image", "media": {}}, "media_source_missing"),
        ({"to": MARIA, "type": "image", "media": {"url": "http://example.org/a.jpg"}}, "media_url_invalid"),
        ({"to": MARIA, "type": "image", "media": {"url": "file:///etc/passwd"}}, "media_url_invalid"),
        ({"to": MARIA, "type": "image", "media": {"url": "http://127.0.0.1:1/a"}}, "media_url_invalid"),
        ({"to": MARIA, "type": "image", "media": {"base64": "%%%"}}, "media_base64_invalid"),
    ],
)
async def test_media_is_refused_with_its_reason(body: dict[str, Any], error: str, broker: Broker) -> None:
    await broker.open()
    status, answer = await broker.call("POST", "/instances/loja1/send-media", body)
    assert (status, answer["error"]) == (400, error)


async def test_a_large_file_is_refused(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whatsapp.simulator.sending.MAX_BYTES", 3)
    await broker.open()
    body = {"to": MARIA, "type": "image", "media": {"base64": b64encode(b"data").decode()}}
    assert (await broker.call("POST", "/instances/loja1/send-media", body))[1] == {"error": "media_too_large"}


async def test_acks_follow_a_send_in_the_order_asked_for(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[4, 2, 2, 0], ackDelayMs=5)
    _, sent = await broker.text()
    await hook.wait(4, "WHATSAPP_MESSAGES_UPDATE")
    updates = [one["raw"]["updates"][0] for one in hook.of("WHATSAPP_MESSAGES_UPDATE")]
    assert sorted(one["update"]["status"] for one in updates) == [0, 2, 2, 4]
    assert all(
        one["key"] == {"remoteJid": f"{MARIA}@s.whatsapp.net", "id": sent["id"], "fromMe": True} for one in updates
    )
    assert next(one["update"] for one in updates if one["update"]["status"] == 0)["messageStubParameters"]


async def test_by_default_a_send_is_acked_2_and_3(broker: Broker, hook: Hook) -> None:
    await broker.open(ackDelayMs=5)
    await broker.text()
    await until(lambda: len(hook.of("WHATSAPP_MESSAGES_UPDATE")) == 2)
    statuses = [one["raw"]["updates"][0]["update"]["status"] for one in hook.of("WHATSAPP_MESSAGES_UPDATE")]
    assert statuses == [2, 3]
