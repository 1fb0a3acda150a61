"""The control API: behaviours, follow-ups, refusals, reset."""

from __future__ import annotations

from typing import Any

import pytest

from tests.whatsapp.simulator.conftest import MARIA, Broker, Hook

JID = f"{MARIA}@s.whatsapp.net"


async def test_an_unknown_behaviour_is_refused_with_the_known_ones(broker: Broker) -> None:
    await broker.open()
    for body in ({"sendDelay": 5}, {"rate": {"max": -1}}, {"webhook": {"retry": 1}}, {"lid": "maybe"}, [1]):
        status, answer = await broker.call("POST", "/_sim/loja1/behaviour", body)
        assert (status, answer["error"]) == (400, "behaviour_invalid"), body
        assert {"sendDelayMs", "autoAck", "webhook", "cdn"} <= set(answer["known"])
    assert (await broker.call("GET", "/_sim/state"))[1]["behaviours"] == {"all": {}, "instances": {}}
    assert (await broker.call("POST", "/_sim/nobody/behaviour", {}))[0] == 404


async def test_behaviours_come_in_layers_and_are_reset(broker: Broker) -> None:
    await broker.open()
    await broker.open("loja2")

    async def offline(name: str) -> bool:
        return (await broker.text(name=name))[0] == 503

    await broker.call("POST", "/_sim/behaviour", {"offline": True, "webhook": {"retryScale": 0}})
    await broker.call("POST", "/_sim/loja2/behaviour", {"offline": False, "webhook": {"duplicate": 2}})
    assert (await offline("loja1"), await offline("loja2")) == (True, False)
    merged = broker.simulator.behaviours.of("loja2").webhook
    assert (merged.retry_scale, merged.duplicate) == (0, 2)
    await broker.call("POST", "/_sim/loja2/behaviour", {})
    assert await offline("loja2")
    await broker.call("POST", "/_sim/loja2/behaviour", {"offline": False})
    await broker.call("POST", "/_sim/behaviour", {})
    assert not await offline("loja1")
    assert broker.simulator.behaviours.of("loja2").webhook.duplicate == 1


@pytest.mark.parametrize(("mode", "has_alt"), [(True, True), ("only", False)])
async def test_lid_addressing(mode: Any, has_alt: bool, broker: Broker, hook: Hook) -> None:
    await broker.open(lid=mode, autoAck=[2], ackDelayMs=1)
    await broker.inbound({"from": MARIA, "text": "oi"})
    await hook.wait(2)
    key = hook.of("WHATSAPP_MESSAGES_UPSERT")[0]["messages"][0]["key"]
    assert key["remoteJid"].endswith("@lid")
    assert key["addressingMode"] == "lid"
    assert key.get("remoteJidAlt") == (JID if has_alt else None)
    assert hook.of("MESSAGE_INBOUND")[0]["contact"]["phone"] == (f"+{MARIA}" if has_alt else None)
    await broker.text()
    await hook.wait(5)
    own = hook.of("WHATSAPP_MESSAGES_UPSERT")[1]["raw"]["messages"][0]["key"]
    assert own["remoteJid"] == key["remoteJid"]


async def test_encodings_reach_the_wire(broker: Broker, hook: Hook) -> None:
    await broker.open(encoding={"bytes": "buffer", "longs": "object"})
    await broker.inbound({"from": MARIA, "media": {"type": "image", "base64": "AAAA"}})
    await hook.wait(2)
    raw = hook.of("WHATSAPP_MESSAGES_UPSERT")[0]["messages"][0]
    assert raw["messageTimestamp"]["unsigned"] is True
    assert raw["message"]["imageMessage"]["mediaKey"]["type"] == "Buffer"
    assert raw["message"]["imageMessage"]["fileLength"]["low"] == 3


async def test_an_edit_is_hollow_in_the_canonical_event(broker: Broker, hook: Hook) -> None:
    await broker.open()
    await broker.inbound({"from": MARIA, "text": "ola", "id": "M1"})
    await hook.wait(2)
    await broker.call("POST", "/_sim/loja1/edit", {"id": "M1", "text": "olá"})
    await hook.wait(4)
    assert hook.of("MESSAGE_INBOUND")[1]["message"]["type"] is None
    raw = hook.of("WHATSAPP_MESSAGES_UPSERT")[1]["messages"][0]["message"]["editedMessage"]["message"][
        "protocolMessage"
    ]
    assert raw == {"key": {"id": "M1"}, "type": "MESSAGE_EDIT", "editedMessage": {"conversation": "olá"}}


async def test_an_own_message_is_revoked_by_ourselves_or_by_a_named_stranger(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[])
    _, sent = await broker.text()
    await hook.wait(2)
    await broker.call("POST", "/_sim/loja1/revoke", {"id": sent["id"]})
    await broker.call("POST", "/_sim/loja1/revoke", {"id": sent["id"], "from": "5511900000009"})
    await hook.wait(4)
    revokes = [one["raw"]["messages"][0] for one in hook.of("WHATSAPP_MESSAGES_UPSERT")[1:]]
    assert sorted(one["key"]["fromMe"] for one in revokes) == [False, True]
    assert all(one["message"]["protocolMessage"]["type"] == "REVOKE" for one in revokes)


async def test_a_reaction_in_a_group_names_its_author(broker: Broker, hook: Hook) -> None:
    await broker.open()
    await broker.inbound({"from": MARIA, "text": "oi", "id": "M1", "group": "12036304"})
    await broker.inbound({"from": MARIA, "text": "nós", "id": "M2", "group": "12036304", "fromMe": True})
    await hook.wait(3)
    call = {"id": "M2", "text": "👍"}
    assert (await broker.call("POST", "/_sim/loja1/react", call))[0] == 400
    assert (await broker.call("POST", "/_sim/loja1/react", {**call, "from": "5511900000009"}))[0] == 200
    await hook.wait(5)
    raw = hook.of("WHATSAPP_MESSAGES_UPSERT")[-1]["messages"][0]
    assert raw["key"]["participant"] == "5511900000009@s.whatsapp.net"
    assert raw["message"]["reactionMessage"]["key"]["fromMe"] is True


async def test_a_quote_of_a_known_message_brings_its_text_and_author(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[])
    _, sent = await broker.text(message="Qual o tamanho?")
    await broker.inbound({"from": MARIA, "text": "42", "quoted": sent["id"]})
    await hook.wait(4)
    content = hook.of("WHATSAPP_MESSAGES_UPSERT")[-1]["messages"][0]["message"]["extendedTextMessage"]
    context = content["contextInfo"]
    assert (content["text"], context["quotedMessage"]) == ("42", {"conversation": "Qual o tamanho?"})
    assert context["participant"] == (await broker.snapshot())["user"]["id"].replace(":1", "")


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/_sim/nobody/inbound", {"from": MARIA}, 404, "instance_not_found"),
        ("/_sim/loja1/inbound", {"text": "x"}, 400, "inbound_invalid"),
        ("/_sim/loja1/inbound", [], 400, "inbound_invalid"),
        ("/_sim/loja1/inbound", {"from": MARIA, "txt": "x"}, 400, "inbound_invalid"),
        ("/_sim/loja1/inbound", {"from": MARIA, "media": {"type": "x", "base64": ""}}, 400, "media_type_invalid"),
        ("/_sim/loja1/ack", {"id": "x", "status": 9}, 400, "call_invalid"),
        ("/_sim/loja1/vote", {"pollId": "x", "voter": MARIA, "options": []}, 404, "poll_not_found"),
        ("/_sim/customers", {"count": 1, "script": "opera"}, 400, "call_invalid"),
    ],
)
async def test_bad_calls_are_refused_with_a_reason(
    path: str, body: Any, status: int, error: str, broker: Broker
) -> None:
    await broker.open()
    got, answer = await broker.call("POST", path, body)
    assert (got, answer["error"]) == (status, error)


async def test_unknown_control_calls_are_json_404(broker: Broker) -> None:
    assert await broker.call("POST", "/_sim/loja1/dance", {}) == (404, {"error": "unknown_control_call"})


async def test_state_counts_what_the_broker_was_asked_and_not_the_control_calls(broker: Broker) -> None:
    await broker.open()
    for _ in range(2):
        await broker.text()
    await broker.call("GET", "/instances")
    _, state = await broker.call("GET", "/_sim/state")
    assert state["requests"] == {"POST /instances/loja1/send-text": 2, "GET /instances": 1}


async def test_reset_leaves_nothing_and_never_repeats_an_id(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[])
    first = (await broker.inbound({"from": MARIA, "text": "oi"}))[0]
    await broker.text()
    await hook.wait(4)
    assert (await broker.call("POST", "/_sim/reset", {}))[0] == 200
    _, state = await broker.call("GET", "/_sim/state")
    assert (state["instances"], state["webhooks"], state["customers"]["count"]) == ([], {}, 0)
    await broker.open()
    assert await broker.sent() == []
    assert (await broker.inbound({"from": MARIA, "text": "oi"}))[0] != first


async def test_reset_ends_the_retries_that_were_on_their_way(broker: Broker, hook: Hook) -> None:
    await broker.open(webhook={"retryScale": 0.1})
    hook.status = 500
    await broker.inbound({"from": MARIA, "text": "oi"})
    await hook.wait(2)
    assert (await broker.call("POST", "/_sim/reset", {}))[0] == 200
    assert broker.simulator.webhooks.counters["pending"] == 0
    hook.got.clear()
    await broker.open("loja2")
    await broker.inbound({"from": MARIA, "text": "oi"}, name="loja2")
    await hook.wait(1)
    assert {one.body["instanceId"] for one in hook.got} == {"loja2"}


async def test_withdrawing_a_vote_leaves_no_voter(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[])
    poll = {"to": MARIA, "question": "Qual?", "options": ["A", "B"]}
    _, sent = await broker.call("POST", "/instances/loja1/send-poll", poll)
    for options in (["A"], ["B"], []):
        call = {"pollId": sent["id"], "voter": MARIA, "options": options}
        assert (await broker.call("POST", "/_sim/loja1/vote", call))[0] == 200
    await hook.wait(3, "POLL_CHOICE")
    totals = sorted(one["aggregates"]["totalVoters"] for one in hook.of("POLL_CHOICE"))
    assert totals == [0, 1, 1]
    wrong = {"pollId": sent["id"], "voter": MARIA, "options": ["Z"]}
    assert (await broker.call("POST", "/_sim/loja1/vote", wrong))[1]["known"] == ["A", "B"]
