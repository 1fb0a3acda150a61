"""Every kind of webhook of the corpus has the recorded keys, types, order of keys and headers."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.whatsapp.simulator.conftest import HOOK_KEY, KEY, MARIA, Broker, Hook
from whatsapp.simulator.behaviours import Encoding
from whatsapp.simulator.media import ASSETS
from whatsapp.simulator.wire import Message, canonical_payload, encode, iso, raw_message, upsert_payload

CORPUS = Path(__file__).parents[2] / "payloads" / "corpus" / "webhooks.jsonl"
RECORDED = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x000\x00\x00\x000"
PICTURE = {"type": "image", "base64": b64encode(PNG).decode(), "mimetype": "image/png"}
VOICE = {"type": "audio", "base64": b64encode(b"OggS").decode(), "ptt": True}
QUOTED = {"id": "T1", "text": "pergunta", "participant": "5511900000000"}
EPHEMERAL = {"ephemeralMessage": {"message": {"extendedTextMessage": {"text": "temporaria"}}}}
BUTTON = {"buttonsResponseMessage": {"selectedButtonId": "sim", "selectedDisplayText": "Sim", "type": "DISPLAY_TEXT"}}
PLACE = {"locationMessage": {"degreesLatitude": -23.5, "degreesLongitude": -46.6, "name": "Loja"}}

KINDS: dict[str, tuple[list[int], dict[str, Any]]] = {
    # line numbers of the corpus, and what to ask of the simulator
    "text": ([0, 1], {"text": "Bom dia", "id": "T1"}),
    "lid": ([2, 3], {"text": "via lid", "lid": "123456789012345", "pushName": "João", "from": "5511977776666"}),
    "group": ([4, 5], {"text": "no grupo", "group": "120363041234567890", "from": "5511966665555"}),
    "phone-typed": ([6], {"text": "do celular", "fromMe": True}),
    "status post": ([7, 8], {"text": "story", "group": "status@broadcast"}),
    "image": ([9, 10], {"media": PICTURE, "caption": "meu RG"}),
    "voice note": ([11, 12], {"media": VOICE}),
    "disappearing": ([13, 14], {"message": EPHEMERAL}),
    "quote": ([15, 16], {"text": "resposta", "quoted": QUOTED}),
    "button reply": ([17, 18], {"message": BUTTON}),
    "location": ([19, 20], {"message": PLACE}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_inbound_kind_is_as_recorded(kind: str, broker: Broker, hook: Hook) -> None:
    lines, request = KINDS[kind]
    await broker.open()
    await broker.inbound({"from": MARIA, "pushName": "Maria", "timestamp": 1795293693} | request)
    got = await hook.wait(len(lines))
    assert [shape(one.body) for one in got] == [recorded_shape(line) for line in lines]


async def test_reaction_and_revoke_are_as_recorded(broker: Broker, hook: Hook) -> None:
    await broker.open()
    await broker.inbound({"from": MARIA, "pushName": "Maria", "text": "Bom dia", "id": "T1"})
    await hook.wait(2)
    await broker.call("POST", "/_sim/loja1/react", {"id": "T1", "text": "👍"})
    await hook.wait(4)
    await broker.call("POST", "/_sim/loja1/revoke", {"id": "T1"})
    got = await hook.wait(5)
    assert [shape(one.body) for one in got[2:]] == [recorded_shape(line) for line in (21, 22, 23)]
    reaction = got[3].body["payload"]["messages"][0]["message"]["reactionMessage"]
    assert reaction == {"key": {"remoteJid": f"{MARIA}@s.whatsapp.net", "fromMe": False, "id": "T1"}, "text": "👍"}


async def test_an_api_send_with_echo_and_ack_is_as_recorded(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[2], ackDelayMs=50)
    await broker.text(message="Olá Maria")
    got = await hook.wait(3)
    assert [shape(one.body) for one in got] == [recorded_shape(line) for line in (24, 25, 26)]


async def test_a_poll_vote_is_as_recorded_and_is_three_webhooks_of_one_message(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[])
    poll = {"to": MARIA, "question": "Qual?", "options": ["Sim", "Não"]}
    _, sent = await broker.call("POST", "/instances/loja1/send-poll", poll)
    await hook.wait(1)
    vote = {"pollId": sent["id"], "voter": MARIA, "options": ["Sim"], "pushName": "Maria"}
    _, answer = await broker.call("POST", "/_sim/loja1/vote", vote)
    got = await hook.wait(4)
    by_event = {one.event: one.body for one in got[1:]}
    choice = by_event["POLL_CHOICE"]
    assert shape(choice) == recorded_shape(27)
    assert choice["payload"]["aggregates"]["optionTotals"][0] == {"id": "Sim", "text": "Sim", "votes": 1}
    inbound = by_event["MESSAGE_INBOUND"]["payload"]
    assert inbound["message"] == {
        "id": answer["id"],
        "chatId": f"{MARIA}@s.whatsapp.net",
        "type": "poll_update",
        "text": None,
    }
    assert inbound["metadata"]["pollChoice"]["selectedOptions"] == [{"id": "Sim", "text": "Sim"}]
    raw = by_event["WHATSAPP_MESSAGES_UPSERT"]["payload"]["messages"][0]
    assert raw["key"]["id"] == choice["payload"]["messageId"] == answer["id"]
    assert raw["message"]["pollUpdateMessage"]["pollCreationMessageKey"]["id"] == sent["id"]


async def test_the_headers_are_the_recorded_ones_and_the_signature_is_right(broker: Broker, hook: Hook) -> None:
    await broker.open()
    await broker.inbound({"from": MARIA, "text": "oi"})
    for one in await hook.wait(2):
        headers = {name.lower(): value for name, value in one.headers.items()}
        for name, recorded in RECORDED[0]["headers"].items():
            assert name in headers
            if name in ("content-type", "user-agent"):
                assert headers[name] == recorded
        assert headers["x-api-key"] == HOOK_KEY
        assert headers["x-signature"] == hmac.digest(KEY.encode(), one.raw, "sha256").hex()
        assert "authorization" not in headers
        assert b": " not in one.raw.split(b"text")[0]


def test_our_encoder_writes_the_recorded_bytes() -> None:
    for line in RECORDED:
        body = json.loads(line["body"])
        assert encode(body) == line["body"].encode()


def test_a_lone_surrogate_becomes_its_escape() -> None:
    assert encode({"text": "a\ud83db"}) == b'{"text":"a\\ud83db"}'


def test_iso_is_javascripts() -> None:
    assert iso(1795293693) == "2026-11-21T20:41:33.000Z"
    assert iso(1795293693.25) == "2026-11-21T20:41:33.250Z"


@pytest.mark.parametrize(
    ("content", "type_", "text"),
    [
        ({"viewOnceMessageV2": {"message": {"imageMessage": {}}}}, None, None),
        ({"editedMessage": {"message": {}}}, None, None),
        ({"reactionMessage": {"text": "👍"}}, None, None),
        ({"listResponseMessage": {"title": "P", "singleSelectReply": {"selectedRowId": "p"}}}, "list_response", None),
        ({"contactMessage": {"displayName": "Ana", "vcard": "BEGIN:VCARD"}}, "contact", None),
        ({"documentWithCaptionMessage": {"message": {"documentMessage": {"caption": "CNH"}}}}, "media", "CNH"),
    ],
)
def test_the_gaps_of_the_canonical_event(content: dict[str, Any], type_: str | None, text: str | None) -> None:
    message = canonical_payload(a_message(content))["message"]
    assert (message["type"], message["text"]) == (type_, text)
    assert "media" not in message
    assert "vcard" not in json.dumps(message)


def test_a_lid_without_alt_hides_the_phone() -> None:
    message = a_message({"conversation": "oi"}, lid="1234@lid", lid_only=True)
    assert raw_message(message)["key"] == {
        "remoteJid": "1234@lid",
        "fromMe": False,
        "id": "M1",
        "addressingMode": "lid",
    }
    assert canonical_payload(message)["contact"]["phone"] is None


def test_a_lid_in_a_group_stands_in_the_participant() -> None:
    message = a_message({"conversation": "oi"}, chat="12036@g.us", lid="1234@lid")
    assert list(raw_message(message)["key"]) == [
        "remoteJid",
        "fromMe",
        "id",
        "participant",
        "participantAlt",
        "addressingMode",
    ]
    assert canonical_payload(message)["contact"]["participant"] == f"{MARIA}@s.whatsapp.net"


def test_stubs_revokes_and_own_messages_stand_only_in_raw() -> None:
    messages = [
        a_message({"conversation": "oi"}),
        a_message({"conversation": "eu"}, from_me=True),
        a_message({}, stub="CIPHERTEXT"),
        a_message({"protocolMessage": {"type": "REVOKE"}}),
        a_message({}),
    ]
    payload = upsert_payload("loja1", messages, "notify", Encoding())
    assert len(payload["raw"]["messages"]) == 5
    assert payload["messages"] == payload["normalized"]["messages"] == payload["raw"]["messages"][:1]
    assert payload["raw"]["messages"][2]["messageStubType"] == "CIPHERTEXT"


@pytest.mark.parametrize(
    ("encoding", "key", "length"),
    [
        (Encoding(), "AQI=", "4294967298"),
        (Encoding(bytes="map", longs="object"), {"0": 1, "1": 2}, {"low": 2, "high": 1, "unsigned": True}),
        (Encoding(bytes="buffer"), {"type": "Buffer", "data": [1, 2]}, "4294967298"),
    ],
)
def test_bytes_and_longs_have_three_and_two_forms(encoding: Encoding, key: Any, length: Any) -> None:
    content = {"imageMessage": {"mediaKey": "AQI=", "fileLength": str((1 << 32) + 2), "caption": "AQI="}}
    raw = upsert_payload("loja1", [a_message(content)], "notify", encoding)["raw"]["messages"][0]
    assert raw["message"]["imageMessage"] == {"mediaKey": key, "fileLength": length, "caption": "AQI="}
    assert isinstance(raw["messageTimestamp"], dict if encoding.longs == "object" else int)


def test_every_asset_is_small() -> None:
    for path in ASSETS.iterdir():
        limit = 20_480 if path.suffix == ".ogg" else 4096 if ".thumb" in path.name else 40_960
        assert path.stat().st_size <= limit, path.name


def a_message(content: dict[str, Any], **more: Any) -> Message:
    jid = f"{MARIA}@s.whatsapp.net"
    fields: dict[str, Any] = {"id": "M1", "chat": jid, "sender": jid, "from_me": False, "timestamp": 1795293693}
    return Message(content=content, **fields | more)


def recorded_shape(line: int) -> Any:
    return shape(json.loads(RECORDED[line]["body"]))


def shape(value: Any, name: str = "") -> Any:
    """Gives keys in their order and types; words of the protocol are compared, too."""
    if isinstance(value, dict):
        return [(key, shape(item, key)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(item) for item in value]
    words = ("event", "type", "owner", "direction", "source", "addressingMode", "isGroup", "status", "mediaType", "ptt")
    return value if name in words else type(value).__name__
