"""Raw upserts: the table of spec/inbound.md section 5, the encodings of section 6, the addresses of section 7."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.payloads.builders import GROUP, JID, PHONE, RECEIVED_AT, SENT, SENT_AT, raw, read, read_one, update, upsert
from tests.payloads.matchers import differences
from whatsapp.schemas import Address

KEY = base64.b64encode(bytes(range(32))).decode()
CARD = "BEGIN:VCARD\nFN:Bento\nitem1.TEL;type=CELL;waid=554891001234:+55 48 9100-1234\nTEL:(47) 3333-1234\nEND:VCARD"

# message, row type, messageType, text, part of the canonical message, part of its metadata
TABLE: dict[str, tuple[dict[str, Any], str, str, str | None, dict[str, Any], dict[str, Any]]] = {
    "conversation": ({"conversation": " oi "}, "TEXT", "text", "oi", {}, {}),
    "extended": ({"extendedTextMessage": {"text": "oi"}}, "TEXT", "text", "oi", {}, {}),
    "buttons": ({"buttonsMessage": {"contentText": "escolha"}}, "TEXT", "text", "escolha", {}, {}),
    "list": ({"listMessage": {"title": "t", "description": "d"}}, "TEXT", "text", "d", {}, {}),
    "template": (
        {"templateMessage": {"hydratedTemplate": {"hydratedContentText": "modelo"}}},
        "TEXT",
        "text",
        "modelo",
        {},
        {},
    ),
    "interactive": ({"interactiveMessage": {"body": {"text": "corpo"}}}, "TEXT", "text", "corpo", {}, {}),
    "image": (
        {"imageMessage": {"mimetype": "image/png", "fileLength": "20480", "caption": " RG ", "mediaKey": KEY}},
        "IMAGE",
        "image",
        "RG",
        {"imageMessage": {"mimetype": "image/png", "fileLength": 20480, "caption": "RG", "mediaKey": KEY}},
        {"media": {"mediaType": "image", "size": 20480}},
    ),
    "image beside a text": (
        {"conversation": "veja", "imageMessage": {"mimetype": "image/png"}},
        "IMAGE",
        "image",
        "veja",
        {},
        {},
    ),
    "sticker": (
        {"stickerMessage": {"mimetype": "image/webp"}},
        "STICKER",
        "image",
        None,
        {"imageMessage": {"mimetype": "image/webp"}},
        {"media": {"sticker": True}},
    ),
    "video": ({"videoMessage": {"seconds": 9}}, "VIDEO", "video", None, {"videoMessage": {"seconds": 9}}, {}),
    "ptv": (
        {"ptvMessage": {"seconds": 9}},
        "VIDEO",
        "video",
        None,
        {"videoMessage": {"seconds": 9}},
        {"media": {"ptv": True}},
    ),
    "voice note": (
        {"audioMessage": {"ptt": True, "seconds": "4"}},
        "AUDIO",
        "audio",
        None,
        {"audioMessage": {"ptt": True, "seconds": 4}},
        {"media": {"ptt": True, "seconds": 4}},
    ),
    "document": (
        {"documentMessage": {"fileName": "cnh.pdf", "pageCount": 2}},
        "DOCUMENT",
        "document",
        None,
        {"documentMessage": {"fileName": "cnh.pdf", "pageCount": 2}},
        {},
    ),
    "button": (
        {"buttonsResponseMessage": {"selectedButtonId": "sim", "selectedDisplayText": "Sim"}},
        "TEXT",
        "buttons_response",
        "Sim",
        {},
        {"interactive": {"type": "buttons_response", "id": "sim", "title": "Sim"}},
    ),
    "button without title": (
        {"templateButtonReplyMessage": {"selectedId": "b1"}},
        "TEXT",
        "buttons_response",
        "b1",
        {},
        {"interactive": {"id": "b1", "title": "$absent"}},
    ),
    "native flow": (
        {
            "interactiveResponseMessage": {
                "body": {"text": "Quero"},
                "nativeFlowResponseMessage": {"paramsJson": '{"id": "f1"}'},
            }
        },
        "TEXT",
        "buttons_response",
        "Quero",
        {},
        {"interactive": {"id": "f1", "title": "Quero"}},
    ),
    "list answer": (
        {"listResponseMessage": {"title": "Boleto", "singleSelectReply": {"selectedRowId": "r1"}}},
        "TEXT",
        "list_response",
        "Boleto",
        {},
        {"interactive": {"type": "list_response", "id": "r1", "title": "Boleto"}},
    ),
    "list answer without title": (
        {"listResponseMessage": {"singleSelectReply": {"selectedRowId": "r1"}}},
        "TEXT",
        "list_response",
        "r1",
        {},
        {},
    ),
    "poll": (
        {"pollCreationMessageV3": {"name": "Qual?", "options": [{"optionName": "Sim"}, {"optionName": "Não"}]}},
        "POLL",
        "poll",
        "Qual?",
        {"pollCreationMessage": {"name": "Qual?", "options": [{"optionName": "Sim"}, {"optionName": "Não"}]}},
        {},
    ),
    "location": (
        {"locationMessage": {"degreesLatitude": 0, "degreesLongitude": -48.5, "name": "Mercado", "address": "Rua A"}},
        "LOCATION",
        "location",
        "Mercado",
        {"locationMessage": {"degreesLatitude": 0, "degreesLongitude": -48.5}},
        {"location": {"latitude": 0, "longitude": -48.5, "name": "Mercado", "address": "Rua A"}},
    ),
    "live location off the earth": (
        {"liveLocationMessage": {"degreesLatitude": 91, "degreesLongitude": 0}},
        "LOCATION",
        "location",
        None,
        {},
        {"location": "$absent"},
    ),
    "contact": (
        {"contactMessage": {"displayName": "Bento", "vcard": CARD}},
        "CONTACT",
        "contact",
        "Bento",
        {"contactMessage": {"displayName": "Bento", "vcard": CARD}},
        {"contacts": [{"displayName": "Bento", "phones": ["+5548991001234", "+554733331234"], "vcard": CARD}]},
    ),
    "contacts": (
        {"contactsArrayMessage": {"contacts": [{"displayName": "Ana"}, {"displayName": "Rui"}]}},
        "CONTACT",
        "contact",
        "Ana, Rui",
        {"contactsArrayMessage": {"contacts": [{"displayName": "Ana"}, {"displayName": "Rui"}]}},
        {"contacts": [{"displayName": "Ana", "phones": []}, {"displayName": "Rui", "phones": []}]},
    ),
    "unknown": (
        {"albumMessage": {"expectedImageCount": 2}},
        "UNKNOWN",
        "unknown",
        None,
        {},
        {"unknownKind": "albumMessage"},
    ),
    "known but malformed": ({"imageMessage": "x"}, "UNKNOWN", "unknown", None, {}, {"unknownKind": "imageMessage"}),
    "text kind without text": (
        {"templateMessage": {}},
        "UNKNOWN",
        "unknown",
        None,
        {},
        {"unknownKind": "templateMessage"},
    ),
}


@pytest.mark.parametrize(("message", "row_type", "word", "text", "wire", "metadata"), TABLE.values(), ids=TABLE)
def test_table(
    message: dict[str, Any],
    row_type: str,
    word: str,
    text: str | None,
    wire: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    item = read_one(upsert(raw(message)))

    assert (item.kind, item.reason, item.cause) == ("message", "raw_inbound_normalized", None)
    assert (item.content.type, item.content.payload_type, item.content.text) == (row_type, word, text)
    payload = item.canonical["payload"]
    head = {"id": "M1", "type": word, "text": text, "messageTimestamp": SENT}
    assert differences({**head, **wire}, payload["message"]) == []
    assert payload["message"]["key"] == {"id": "M1", "remoteJid": JID, "fromMe": False}
    broker = {"type": "baileys", "direction": "inbound", "normalized": True, "messageType": word}
    assert differences({"source": "raw_normalized", "broker": broker, **metadata}, payload["metadata"]) == []
    assert not item.content.hollow


def test_metadata_of_a_plain_text_has_no_empty_keys() -> None:
    item = read_one(upsert(raw({"conversation": "oi"})))
    assert item.canonical["payload"]["metadata"] == {
        "source": "raw_normalized",
        "broker": {
            "type": "baileys",
            "direction": "inbound",
            "normalized": True,
            "messageType": "text",
            "upsertType": "notify",
        },
        "rawKey": {"remoteJid": "5548991001234", "jid": JID},
        "contact": {"pushName": "Iracema Luz", "isGroup": False, "remoteJid": JID},
    }
    assert item.metadata["brokerMessageTimestamp"] == SENT
    assert item.metadata["normalizedTimestamp"] == "2025-09-16T12:00:00.000Z"
    assert item.broker_metadata["messageType"] == "text"


WRAPPERS = [
    "ephemeralMessage",
    "viewOnceMessage",
    "viewOnceMessageV2",
    "viewOnceMessageV2Extension",
    "documentWithCaptionMessage",
    "editedMessage",
    "deviceSentMessage",
    "groupMentionedMessage",
]


def test_unwraps_eight_levels_and_no_more() -> None:
    message: dict[str, Any] = {"conversation": "fundo"}
    for wrapper in WRAPPERS:
        message = {wrapper: {"message": message}, "messageContextInfo": {}}
    item = read_one(upsert(raw(message)))
    assert item.content.text == "fundo"
    assert item.content.flags == {"ephemeral": True, "viewOnce": True}
    assert item.metadata["viewOnce"] is True
    deeper = read_one(upsert(raw({"ephemeralMessage": {"message": message}})))
    assert (deeper.content.type, deeper.content.unknown_kind) == ("UNKNOWN", "ephemeralMessage")


def test_view_once_image_and_sender_key() -> None:
    message = {"imageMessage": {"viewOnce": True}, "senderKeyDistributionMessage": {"groupId": "g"}}
    assert read_one(upsert(raw(message))).content.flags == {"skd": True, "viewOnce": True}


@pytest.mark.parametrize(
    ("entry", "cause", "word"),
    [
        pytest.param(None, "invalid_entry", "none", id="null"),
        pytest.param("text", "invalid_entry", "none", id="text"),
        pytest.param(raw({"conversation": "x"}, {"id": None}), "invalid_entry", "none", id="no id"),
        pytest.param(
            raw({"conversation": "x"}, {"remoteJid": "status@broadcast"}), "status_broadcast", "text", id="status"
        ),
        pytest.param(
            raw({"imageMessage": {}}, {"remoteJid": "12036@newsletter"}), "newsletter", "image", id="newsletter"
        ),
        pytest.param(
            raw({"conversation": "x"}, {"remoteJid": "status@broadcast", "fromMe": True}),
            "status_broadcast",
            "text",
            id="own status",
        ),
        pytest.param(raw(None, {"fromMe": True}), "from_me", "none", id="own, empty"),
        pytest.param(
            raw({"protocolMessage": {"type": "APP_STATE"}}, {"fromMe": True}), "from_me", "none", id="own protocol"
        ),
        pytest.param(raw({"conversation": "x"}, messageStubType=1), "message_stub", "none", id="stub number"),
        pytest.param(raw(None, messageStubType="CIPHERTEXT"), "message_stub", "none", id="stub name"),
        pytest.param(raw(None), "empty_message", "none", id="no message"),
        pytest.param(raw({}), "empty_message", "none", id="empty"),
        pytest.param(raw({"conversation": None}), "empty_message", "none", id="null content"),
        pytest.param(raw({"conversation": "  "}), "empty_message", "none", id="blank"),
        pytest.param(raw({"protocolMessage": {"type": 3}}), "protocol_message", "none", id="protocol"),
        pytest.param(
            raw({"protocolMessage": {"historySyncNotification": {}}}), "protocol_message", "none", id="history inside"
        ),
        pytest.param(raw({"historySyncNotification": {"syncType": 1}}), "history_sync", "none", id="history"),
        pytest.param(raw({"senderKeyDistributionMessage": {}}), "sender_key_only", "none", id="sender key"),
        pytest.param(raw({"messageContextInfo": {}}), "sender_key_only", "none", id="context only"),
    ],
)
def test_causes(entry: Any, cause: str, word: str) -> None:
    item = read_one(upsert(entry))
    assert (item.kind, item.reason, item.cause) == ("ignored", "raw_inbound_ignored", cause)
    assert item.payload_type == word


@pytest.mark.parametrize("stub", [0, "0", "UNKNOWN", "", None])
def test_no_stub(stub: Any) -> None:
    assert read_one(upsert(raw({"conversation": "oi"}, messageStubType=stub))).kind == "message"


def test_own_content_is_an_echo_without_a_name() -> None:
    item = read_one(upsert(raw({"conversation": "do celular"}, {"fromMe": True}, status="PENDING"), type="append"))
    assert (item.kind, item.reason, item.cause) == ("echo", "raw_inbound_ignored", "from_me")
    assert (item.content.text, item.address.phone, item.chat) == ("do celular", PHONE, JID)
    assert "Iracema" not in str(item)
    assert item.broker_metadata["upsertType"] == "append"
    assert item.canonical is None


def test_raw_fallback_off_acknowledges_every_entry() -> None:
    body = upsert(raw({"conversation": "a"}), raw({"imageMessage": {}}, {"id": "M2", "fromMe": True}), 5)
    items = read(body, raw_fallback=False)
    assert [(item.kind, item.reason) for item in items] == [("ignored", "raw_fallback_disabled")] * 3
    assert [item.payload_type for item in items] == ["text", "image", "none"]


def test_entries_are_a_union_by_id() -> None:
    one, two, three = (raw({"conversation": text}, {"id": text}) for text in ("1", "2", "3"))
    other_one = raw({"conversation": "other"}, {"id": "1"})
    body = upsert(raw=json.dumps({"messages": [one, 5], "type": "append"}), normalized={"messages": [three, 5]})
    body["payload"]["messages"] = [other_one, two, 5]
    items = read(body)
    assert [getattr(item, "external_id", None) for item in items] == ["1", None, "2", "3"]
    assert items[0].content.text == "1"
    assert items[0].broker_metadata["upsertType"] == "append"


@pytest.mark.parametrize("name", ["raw", "payload"])
def test_raw_nested_once_more(name: str) -> None:
    body = upsert()
    body["payload"] = {"raw": {name: {"messages": [raw({"conversation": "oi"})]}}}
    assert read_one(body).content.text == "oi"


def test_upserts_without_entries() -> None:
    assert read(upsert()) == []
    no_list = upsert()
    no_list["payload"] = {"raw": "{not json", "messages": {"0": 1}}
    assert read_one(no_list).reason == "invalid_contract"
    assert read_one(no_list, raw_fallback=False).reason == "raw_fallback_disabled"


def test_entry_without_sender() -> None:
    item = read_one(upsert(raw({"conversation": "oi"}, {"remoteJid": None})))
    assert (item.kind, item.reason, item.external_id) == ("ignored", "no_sender", "M1")


def test_quote_in_any_context_info() -> None:
    context = {
        "participant": "5511900000000:3@s.whatsapp.net",
        "quotedMessage": {"ephemeralMessage": {"message": {"imageMessage": {"caption": "foto"}}}},
    }
    for name in ("stanzaId", "stanzaID", "quotedMessageId"):
        message = {"audioMessage": {"seconds": 1, "contextInfo": {name: "Q1", **context}}}
        item = read_one(upsert(raw(message)))
        quote = item.content.quote
        assert (quote.external_id, quote.text, quote.participant) == ("Q1", "foto", "5511900000000@s.whatsapp.net")
        wire = item.canonical["payload"]["message"]
        assert (wire["quotedMessageId"], wire["quotedText"]) == ("Q1", "foto")
        assert item.content.text is None  # the quoted text is no caption


def test_quote_without_text_has_only_its_id() -> None:
    item = read_one(upsert(raw({"extendedTextMessage": {"text": "a", "contextInfo": {"stanzaId": "Q1"}}})))
    assert "quotedText" not in item.canonical["payload"]["message"]
    assert item.metadata["quoted"] == {"id": "Q1"}


BYTES = bytes(range(4))


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ("AAECAw==", "AAECAw=="),
        ({"0": 0, "1": 1, "2": 2, "3": 3}, "AAECAw=="),
        ({"type": "Buffer", "data": [0, 1, 2, 3]}, "AAECAw=="),
        ({"type": "Buffer", "data": "AAECAw=="}, "AAECAw=="),
        ([0, 1, 2, 3], "AAECAw=="),
        ([0, 300], None),
        (["a"], None),
        ({"0": 0, "2": 1}, None),
        ({}, None),
        (5, None),
    ],
)
def test_bytes(value: Any, read_as: str | None) -> None:
    media = read_one(upsert(raw({"imageMessage": {"mediaKey": value, "url": "https://x"}}))).content.media
    assert media.source.get("mediaKey") == read_as
    assert media.source["mediaKind"] == "Image"


def test_media_without_source_and_big_thumbnail() -> None:
    media = read_one(
        upsert(raw({"stickerMessage": {"jpegThumbnail": "A" * 90_000, "mimetype": "image/webp"}}))
    ).content.media
    assert (media.source, media.thumbnail, media.sticker) == ({}, None, True)
    kept = read_one(upsert(raw({"ptvMessage": {"jpegThumbnail": "AAEC", "directPath": "/p"}}))).content.media
    assert (kept.thumbnail, kept.source) == ("AAEC", {"directPath": "/p", "mediaKind": "Video"})


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (SENT, SENT_AT),
        (str(SENT), SENT_AT),
        (SENT * 1000, SENT_AT),
        (f"{SENT}.0", SENT_AT),
        ("2025-09-16T12:00:00Z", SENT_AT),
        ("2025-09-16T09:00:00-03:00", SENT_AT),
        ("2025-09-16 12:00:00", SENT_AT),
        ({"low": SENT, "high": 0, "unsigned": True}, SENT_AT),
        ({"low": SENT - 2**32, "high": 0, "unsigned": False}, SENT_AT),
    ],
)
def test_times(value: Any, moment: datetime) -> None:
    item = read_one(upsert(raw({"conversation": "oi"}, messageTimestamp=value)))
    assert item.sent_at == moment
    assert item.sent_at_original == value


@pytest.mark.parametrize(
    "value",
    [0, -1, None, "", "soon", "99999999999999999999", 10**30, True, {}, {"low": 1}, [SENT], 1e999, 1_200_000_000],
)
def test_unreadable_time_is_the_next_source(value: Any) -> None:
    item = read_one(upsert(raw({"conversation": "oi"}, messageTimestamp=value)))
    assert item.sent_at == datetime.fromtimestamp(SENT + 5, UTC)
    body = upsert(raw({"conversation": "oi"}, messageTimestamp=value))
    del body["timestamp"]
    item = read_one(body)
    assert (item.sent_at, item.sent_at_original) == (RECEIVED_AT, None)


def test_time_from_a_clock_ahead_of_ours() -> None:
    ahead = int(RECEIVED_AT.timestamp()) + 601
    item = read_one(upsert(raw({"conversation": "oi"}, messageTimestamp=ahead)))
    assert (item.sent_at, item.metadata["brokerMessageTimestamp"]) == (RECEIVED_AT, ahead)
    believed = read_one(upsert(raw({"conversation": "oi"}, messageTimestamp=ahead - 2)))
    assert believed.sent_at > RECEIVED_AT


def test_group() -> None:
    key = {"remoteJid": GROUP, "participant": "5547992002345:8@s.whatsapp.net", "participantAlt": "111222333444@lid"}
    item = read_one(upsert(raw({"conversation": "oi"}, key, pushName="Tobias")))
    assert (item.is_group, item.chat, item.address) == (True, GROUP, Address(jid=GROUP))
    assert item.sender.name == "Tobias"
    assert item.sender.address == Address("+5547992002345", "5547992002345", "111222333444")
    assert item.sender.jid == "5547992002345@s.whatsapp.net"
    assert (item.name, item.push_name) == (None, None)
    metadata = item.canonical["payload"]["metadata"]
    assert metadata["contact"]["isGroup"] is True
    assert metadata["contact"]["participantJid"] == key["participant"]
    assert metadata["rawKey"]["participant"] == "5547992002345"
    assert item.canonical["payload"]["contact"]["phone"] == "+5547992002345"


def test_lid_alone_and_with_its_phone() -> None:
    alone = read_one(upsert(raw({"conversation": "oi"}, {"remoteJid": "214365870912345@lid"}, pushName=None)))
    assert (alone.chat, alone.address) == ("214365870912345@lid", Address(lid="214365870912345"))
    assert (alone.name, alone.canonical["payload"]["contact"]["phone"]) == (None, None)
    both = read_one(upsert(raw({"conversation": "oi"}, {"remoteJid": "214365870912345@lid", "remoteJidAlt": JID})))
    assert (both.chat, both.address.lid, both.address.phone) == (JID, "214365870912345", PHONE)


def test_ninth_digit_gives_one_conversation() -> None:
    old = read_one(upsert(raw({"conversation": "oi"}, {"remoteJid": "554891001234@s.whatsapp.net"})))
    assert (old.chat, old.address.phone, old.address.wa_address) == (JID, PHONE, "554891001234")


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ({"pushName": " Ira ", "notifyName": "Outra"}, "Ira"),
        ({"pushName": "+55 48 99100-1234", "notifyName": "Ira"}, "Ira"),
        ({"pushName": JID, "notifyName": None}, None),
        ({"pushName": "x" * 300}, "x" * 255),
    ],
)
def test_names(names: dict[str, Any], name: str | None) -> None:
    assert read_one(upsert(raw({"conversation": "oi"}, **names))).name == name


def test_reaction() -> None:
    node = {"key": {"id": "T1", "fromMe": True}, "text": "👍"}
    item = read_one(upsert(raw({"reactionMessage": node})))
    assert (item.kind, item.reason, item.cause, item.payload_type) == ("reaction", "reaction", None, "reaction")
    assert (item.external_id, item.target_external_id, item.emoji) == ("M1", "T1", "👍")
    assert (item.from_me, item.actor.phone, item.chat, item.sent_at) == (False, PHONE, JID, SENT_AT)
    removed = read_one(upsert(raw({"reactionMessage": {"key": {"id": "T1"}, "text": ""}}, {"fromMe": True})))
    assert (removed.emoji, removed.from_me, removed.actor, removed.cause) == ("", True, Address(), "from_me")
    assert read_one(upsert(raw({"reactionMessage": {"text": "👍"}}))).reason == "invalid_contract"


@pytest.mark.parametrize("word", ["REVOKE", 0, "0"])
@pytest.mark.parametrize("from_me", [False, True])
def test_revoke(word: Any, from_me: bool) -> None:
    message = {"protocolMessage": {"key": {"id": "T1"}, "type": word}}
    item = read_one(upsert(raw(message, {"fromMe": from_me})))
    assert (item.kind, item.reason, item.target_external_id) == ("revoke", "raw_inbound_ignored", "T1")
    assert (item.from_me, item.cause) == (from_me, "from_me" if from_me else "protocol_message")
    assert item.actor == (Address() if from_me else Address(PHONE, "5548991001234"))


@pytest.mark.parametrize("word", ["MESSAGE_EDIT", 14])
def test_edit(word: Any) -> None:
    protocol = {"key": {"id": "T1"}, "type": word, "editedMessage": {"extendedTextMessage": {"text": "novo"}}}
    for message in ({"protocolMessage": protocol}, {"editedMessage": {"message": {"protocolMessage": protocol}}}):
        item = read_one(upsert(raw(message)))
        assert (item.kind, item.target_external_id, item.content.text) == ("edit", "T1", "novo")
        assert (item.cause, item.payload_type) == ("protocol_message", "text")
    protocol["editedMessage"] = {}
    assert read_one(upsert(raw({"protocolMessage": protocol}))).cause == "protocol_message"


def test_poll_keeps_its_secret_out_of_what_is_printed() -> None:
    message = {"pollCreationMessage": {"name": "Qual?", "options": []}, "messageContextInfo": {"messageSecret": KEY}}
    item = read_one(upsert(raw(message)))
    assert item.content.poll == {"question": "Qual?", "options": [], "secret": KEY}
    assert KEY not in json.dumps([item.canonical, item.metadata], default=str)


# --- acks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status"),
    [
        *(({"status": word}, rank) for word, rank in (("ERROR", 0), ("PENDING", 1), ("SERVER_ACK", 2), ("SENT", 2))),
        *(({"status": word}, rank) for word, rank in (("DELIVERY_ACK", 3), ("delivered", 3), ("READ", 4))),
        *(({"status": word}, rank) for word, rank in (("SEEN", 4), ("PLAYED", 5))),
        *(({"status": rank}, rank) for rank in range(6)),
        ({"status": "4"}, 4),
        ({"statusV3": 4, "status": 2}, 4),
        ({"ack": 3}, 3),
    ],
)
def test_ack(change: dict[str, Any], status: int) -> None:
    item = read_one(update(**change))
    assert (item.kind, item.reason, item.payload_type) == ("ack", "ack_applied", "none")
    assert (item.external_id, item.status, item.chat) == ("OUT-1", status, JID)
    assert item.at == datetime.fromtimestamp(SENT + 10, UTC)


def test_ack_error_code() -> None:
    assert read_one(update(0, messageStubParameters=["475", "x"])).error_code == "475"
    assert read_one(update(0, messageStubParameters=[475])).error_code == "475"
    assert read_one(update(0, messageStubParameters=[{}])).error_code is None
    assert read_one(update(3, messageStubParameters=["475"])).error_code is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (update(3, {"fromMe": False}), "ack_not_outgoing"),
        (update(3, {"fromMe": None}), "ack_not_outgoing"),
        (update(6), "ack_unknown_status"),
        (update("FOO"), "ack_unknown_status"),
        (update(True), "ack_unknown_status"),
        (update(starred=True), "ack_unknown_status"),
        (update(3, {"id": ""}), "invalid_contract"),
    ],
)
def test_ack_ignored(body: dict[str, Any], reason: str) -> None:
    assert read_one(body).reason == reason


def test_ack_shapes() -> None:
    body = update()
    body["payload"] = {
        "updates": [{"id": "A", "status": 3}, {"update": {"key": {"id": "B", "fromMe": True}, "status": 4}}, 5]
    }
    items = read(body)
    assert [getattr(item, "external_id", None) for item in items] == ["A", "B", None]
    assert [item.reason for item in items] == ["ack_applied", "ack_applied", "invalid_contract"]
    body["payload"] = {"updates": {}}
    assert read_one(body).reason == "invalid_contract"


def test_edit_and_revoke_by_update() -> None:
    protocol = {"protocolMessage": {"key": {"id": "T1"}, "type": 14, "editedMessage": {"conversation": "novo"}}}
    for message, target in ((protocol, "T1"), ({"editedMessage": {"message": {"conversation": "novo"}}}, "OUT-1")):
        item = read_one(update(message=message, key={"fromMe": False}))
        assert (item.kind, item.target_external_id, item.content.text) == ("edit", target, "novo")
        assert (item.from_me, item.actor.phone, item.external_id) == (False, PHONE, None)
    gone = read_one(
        update(message=None, messageStubType="REVOKE", key={"remoteJid": GROUP, "participant": JID, "fromMe": False})
    )
    assert (gone.kind, gone.target_external_id, gone.actor.phone, gone.chat) == ("revoke", "OUT-1", PHONE, GROUP)


def test_status_of_the_event_list() -> None:
    payload = {"messageId": "OUT-1", "chatId": GROUP, "status": 4, "source": "receipt", "timestamp": SENT * 1000}
    item = read_one({"id": "e1", "type": "MESSAGE_STATUS", "instanceId": "ipe-01", "payload": payload})
    assert (item.kind, item.external_id, item.status, item.chat) == ("ack", "OUT-1", 4, GROUP)
    assert (item.source, item.at) == ("receipt", SENT_AT)
