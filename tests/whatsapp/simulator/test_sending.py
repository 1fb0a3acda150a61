"""Sends beyond what tests/whatsapp/contract holds: what leaves, what is told of it, and what goes wrong on the way."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import Any

import pytest
from aiohttp import ClientSession, ServerDisconnectedError, web

from tests.whatsapp.simulator.conftest import MARIA, Broker, Hook, StartBroker, until
from whatsapp.simulator.media import ASSETS

OUTBOUND = "MESSAGE_OUTBOUND"
UPSERT = "WHATSAPP_MESSAGES_UPSERT"


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


async def test_a_send_that_fails_after_it_left_has_left(broker: Broker, hook: Hook) -> None:
    await broker.open(failAfterSend=True)
    status, answer = await broker.text()
    assert (status, answer["error"]) == (500, "internal_server_error")
    assert len(await broker.sent()) == 1
    assert hook.events().count(OUTBOUND) == 1


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
