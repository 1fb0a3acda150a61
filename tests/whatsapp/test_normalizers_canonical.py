"""Canonical events (spec/inbound.md section 4), hollow ones (8), votes (11) and the round trip of what we write."""

from __future__ import annotations

from typing import Any

import pytest

from tests.payloads.builders import (
    GROUP,
    JID,
    PHONE,
    SENT,
    SENT_AT,
    official,
    poll_choice,
    raw,
    read_one,
    seed,
    upsert,
)
from tests.payloads.matchers import differences
from tests.whatsapp.test_normalizers_raw import TABLE
from whatsapp.schemas import Address

SAMPLE = {"conversation": "Oi!", "imageMessage": {"mimetype": "image/jpeg"}}


def test_seed_sample() -> None:
    item = read_one(
        seed(SAMPLE, {"phone": "+55 48 9100-1234", "name": "Maria", "registrations": ["ABC123"]}, cursor="c1")
    )
    assert (item.kind, item.reason, item.origin) == ("message", "ok", "canonical")
    assert (item.external_id, item.content.type, item.content.text) == ("ev-1", "IMAGE", "Oi!")
    assert (item.name, item.registrations, item.address) == ("Maria", ["ABC123"], Address(PHONE))
    assert item.broker_metadata == {"type": "baileys"}
    payload = {
        "instanceId": "ipe-01",
        "timestamp": "2025-09-16T12:00:00.000Z",
        "contact": {
            "phone": PHONE,
            "name": "Maria",
            "document": None,
            "registrations": ["ABC123"],
            "avatarUrl": None,
            "pushName": None,
        },
        "message": SAMPLE,
        "metadata": {"broker": {"type": "baileys"}},
    }
    assert item.canonical == {
        "id": "ev-1",
        "type": "MESSAGE_INBOUND",
        "instanceId": "ipe-01",
        "timestamp": "2025-09-16T12:00:00.000Z",
        "cursor": "c1",
        "payload": payload,
    }


def test_contact_keys_are_read_one_by_one() -> None:
    contact = {
        "phone": "not a phone",
        "remoteJid": JID,
        "name": " ",
        "pushName": 5,
        "document": ["1"],
        "registrations": ["A", " ", 5],
        "avatarUrl": "javascript:alert(1)",
        "segmento": "ouro",
    }
    item = read_one(seed({"conversation": "oi"}, contact))
    assert (item.address.phone, item.name, item.push_name, item.document) == (PHONE, None, None, None)
    assert (item.registrations, item.avatar_url) == (["A"], None)
    assert item.canonical["payload"]["metadata"]["contact"] == {"remoteJid": JID, "segmento": "ouro"}


@pytest.mark.parametrize(
    ("event", "message", "event_id", "external_id"),
    [
        ({"id": " ev "}, {"id": "M"}, "ev", "M"),
        ({"id": "ev"}, {"key": {"id": "K"}}, "ev", "K"),
        ({"id": "ev"}, {}, "ev", "ev"),
        ({"id": None}, {"id": "M", "key": {"id": "K"}}, "M", "M"),
        ({"id": 5}, {"key": {"id": "K"}}, "K", "K"),
    ],
)
def test_ids(event: dict[str, Any], message: dict[str, Any], event_id: str, external_id: str) -> None:
    item = read_one(seed({**message, "conversation": "oi"}, **event))
    assert (item.canonical["id"], item.external_id) == (event_id, external_id)


@pytest.mark.parametrize(
    ("message", "row_type", "word", "text"),
    [
        ({"type": "text", "text": " oi "}, "TEXT", "text", "oi"),
        ({"type": None, "text": "oi"}, "TEXT", "text", "oi"),
        (
            {"type": "media", "text": "RG", "media": {"mediaType": "image", "caption": "RG", "size": 9}},
            "IMAGE",
            "image",
            "RG",
        ),
        ({"type": "media", "media": {"mediaType": "ptt", "seconds": 3}}, "AUDIO", "audio", None),
        ({"type": "media", "media": {"mimetype": "video/mp4"}}, "VIDEO", "video", None),
        ({"type": "media", "media": {"mimetype": "application/pdf"}}, "DOCUMENT", "document", None),
        ({"type": "media", "media": {"mediaType": "sticker"}}, "STICKER", "image", None),
        ({"type": "media", "text": "segue"}, "UNKNOWN", "unknown", "segue"),
        ({"type": "media", "conversation": "veja", "media": {"mediaType": "image"}}, "IMAGE", "image", "veja"),
        (
            {
                "type": "location",
                "media": {"mediaType": "location", "caption": "Loja", "latitude": -23.5, "longitude": 0},
            },
            "LOCATION",
            "location",
            "Loja",
        ),
        (
            {"type": "buttons_response", "interactive": {"type": "buttons_response", "id": "sim", "title": "Sim"}},
            "TEXT",
            "buttons_response",
            "Sim",
        ),
        ({"type": "list_response", "interactive": {"rowId": "r1"}}, "TEXT", "list_response", "r1"),
        ({"type": "interactive", "interactive": {"id": "x"}}, "TEXT", "buttons_response", "x"),
        ({"type": "contact", "text": "Bento"}, "CONTACT", "contact", "Bento"),
        ({"type": "poll", "text": "Qual?"}, "POLL", "poll", "Qual?"),
        ({"type": "list_response", "text": "a"}, "TEXT", "list_response", "a"),
        ({"message": {"ephemeralMessage": {"message": {"conversation": "dentro"}}}}, "TEXT", "text", "dentro"),
        ({"newMessage": {}, "text": "oi"}, "TEXT", "text", "oi"),
    ],
)
def test_official_content(message: dict[str, Any], row_type: str, word: str, text: str | None) -> None:
    item = read_one(official(message))
    assert (item.content.type, item.content.payload_type, item.content.text) == (row_type, word, text)
    assert not item.content.hollow
    assert differences(message, item.canonical["payload"]["message"]) == []


def test_official_fields() -> None:
    item = read_one(official({"type": "text", "text": "oi"}, {"displayName": "Iracema Luz"}))
    assert (item.name, item.address, item.chat) == ("Iracema Luz", Address(PHONE, "5548991001234"), JID)
    assert (item.sent_at, item.sent_at_original) == (SENT_AT, "2025-09-16T12:00:00.000Z")
    metadata = item.canonical["payload"]["metadata"]
    assert metadata["contact"] == {
        "owner": "user",
        "remoteJid": JID,
        "displayName": "Iracema Luz",
        "isGroup": False,
    }
    assert metadata["broker"] == {"direction": "inbound", "type": "baileys"}
    number = read_one(official({"type": "text", "text": "oi"}, {"displayName": PHONE}))
    assert number.name is None


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "media"},
        {"type": "contact"},
        {"type": "text", "text": "  "},
        {"type": "buttons_response", "interactive": {}},
        {"type": "text", "media": "x", "interactive": [], "conversation": 5},
    ],
)
def test_hollow_waits_for_its_twin(message: dict[str, Any]) -> None:
    item = read_one(official(message))
    assert (item.content.hollow, item.content.type, item.content.text) == (True, "UNKNOWN", None)
    assert not read_one(official(message), raw_fallback=False).content.hollow
    echo = read_one(official(message, event="MESSAGE_OUTBOUND"))
    assert (echo.kind, echo.content.hollow) == ("echo", False)


def test_forwarded_unknown_content_is_not_hollow() -> None:
    item = read_one(seed({"albumMessage": {}}))
    assert (item.content.hollow, item.content.unknown_kind) == (False, "albumMessage")


def test_outbound_is_an_echo_without_a_name() -> None:
    body = official({"type": "text", "text": "Olá"}, {"owner": "device"}, event="MESSAGE_OUTBOUND")
    body["payload"]["direction"] = "inbound"  # the kind gives the direction
    item = read_one(body)
    assert (item.kind, item.reason, item.origin) == ("echo", "outbound_echo", "canonical")
    assert (item.content.text, item.chat, item.canonical["type"]) == ("Olá", JID, "MESSAGE_OUTBOUND")
    assert not hasattr(item, "name")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "message"),
        ({"direction": "inbound"}, "message"),
        ({"direction": "RECEIVED"}, "message"),
        ({"direction": "in"}, "message"),
        ({"direction": "outbound"}, "echo"),
        ({"direction": "Sent"}, "echo"),
        ({"direction": "out"}, "echo"),
        ({"type": "MESSAGE_OUTBOUND"}, "echo"),
        ({"event": None, "type": "MESSAGE_INBOUND"}, "message"),
        ({"payload": {"direction": "out", "contact": {"phone": PHONE}, "message": {"id": "P", "text": "x"}}}, "echo"),
    ],
)
def test_older_shape(change: dict[str, Any], kind: str) -> None:
    body = {
        "event": "message",
        "instanceId": "ipe-01",
        "timestamp": SENT,
        "from": {"phone": PHONE, "name": "Tobias Reis"},
        "message": {"id": "LEG-1", "conversation": "formato antigo"},
        "metadata": {"broker": "baileys"},
        **change,
    }
    item = read_one(body)
    assert item.kind == kind
    if "payload" not in change:
        assert (item.external_id, item.content.text, item.sent_at) == ("LEG-1", "formato antigo", SENT_AT)
        assert item.canonical["payload"]["contact"]["name"] == "Tobias Reis"


@pytest.mark.parametrize(
    ("jid", "reason"), [("status@broadcast", "status_broadcast"), ("120363@newsletter", "newsletter")]
)
def test_posts_are_no_conversations(jid: str, reason: str) -> None:
    for body in (
        official({"type": "text", "text": "story"}, {"remoteJid": jid}),
        official({"type": "text", "text": "story", "chatId": jid}, {"remoteJid": None}),
        seed({"conversation": "story", "key": {"remoteJid": jid}}),
        official({"type": "text", "text": "story"}, {"remoteJid": jid}, event="MESSAGE_OUTBOUND"),
    ):
        item = read_one(body)
        assert (item.kind, item.reason, item.payload_type) == ("ignored", reason, "text")


def test_group() -> None:
    contact = {
        "remoteJid": GROUP,
        "participant": "5547992002345@s.whatsapp.net",
        "phone": "+5547992002345",
        "displayName": "Tobias",
        "isGroup": True,
        "subject": "Condomínio",
    }
    item = read_one(official({"type": "text", "text": "oi", "chatId": GROUP}, contact))
    assert (item.is_group, item.chat, item.address, item.name) == (True, GROUP, Address(jid=GROUP), "Condomínio")
    assert (item.sender.name, item.sender.address.phone) == ("Tobias", "+5547992002345")
    assert item.group_subject == "Condomínio"
    metadata = item.canonical["payload"]["metadata"]["contact"]
    assert (metadata["isGroup"], metadata["participantJid"]) == (True, "5547992002345@s.whatsapp.net")


def test_lid_with_its_phone() -> None:
    item = read_one(official({"type": "text", "text": "oi"}, {"remoteJid": "214365870912345@lid"}))
    assert item.address == Address(PHONE, "5548991001234", "214365870912345")
    alone = read_one(
        official({"chatId": None, "text": "oi"}, {"remoteJid": "2143658709123@lid", "phone": "+2143658709123"})
    )
    assert alone.address == Address(lid="2143658709123")


def test_forwarded_raw_message_may_be_something_else() -> None:
    reaction = read_one(seed({"id": "R", "reactionMessage": {"key": {"id": "T1"}, "text": "👍"}}))
    assert (reaction.kind, reaction.reason, reaction.target_external_id) == ("reaction", "reaction", "T1")
    revoke = read_one(seed({"id": "R", "protocolMessage": {"key": {"id": "T1"}, "type": "REVOKE"}}))
    assert (revoke.kind, revoke.actor) == ("revoke", Address(PHONE))
    for message, cause in (
        ({"protocolMessage": {}}, "protocol_message"),
        ({"messageStubType": 2}, "message_stub"),
        ({"historySyncNotification": {}}, "history_sync"),
        ({"senderKeyDistributionMessage": {}}, "sender_key_only"),
        ({"message": {"senderKeyDistributionMessage": {}}}, "sender_key_only"),
    ):
        item = read_one(seed(message))
        assert (item.reason, item.cause) == ("raw_inbound_ignored", cause)


@pytest.mark.parametrize(
    ("message", "metadata", "payload", "entry", "original"),
    [
        (SENT, "2025-09-16T11:00:00Z", 1, 1, SENT),
        (None, str(SENT), 1, 1, str(SENT)),
        ("x", 0, SENT * 1000, 1, SENT * 1000),
        (None, None, None, "2025-09-16T12:00:00Z", "2025-09-16T12:00:00Z"),
    ],
)
def test_sources_of_the_time(message: Any, metadata: Any, payload: Any, entry: Any, original: Any) -> None:
    body = seed({"conversation": "oi", "messageTimestamp": message}, timestamp=entry)
    body["payload"].update(timestamp=payload, metadata={"timestamp": metadata})
    item = read_one(body)
    assert (item.sent_at, item.sent_at_original) == (SENT_AT, original)


@pytest.mark.parametrize("name", TABLE)
def test_what_we_print_can_be_read_again(name: str) -> None:
    first = read_one(upsert(raw(TABLE[name][0])))
    again = read_one(first.canonical)
    assert (again.external_id, again.chat, again.sent_at, again.name) == (
        first.external_id,
        first.chat,
        first.sent_at,
        first.name,
    )
    if first.content.type not in ("STICKER", "UNKNOWN"):  # their wire form is that of another kind, or none
        assert (again.content.type, again.content.text) == (first.content.type, first.content.text)
        assert again.content.location == first.content.location
        assert again.content.interactive == first.content.interactive


# --- votes ------------------------------------------------------------------------------------------------------


def test_poll_choice() -> None:
    item = read_one(poll_choice())
    assert (item.kind, item.reason, item.payload_type) == ("vote", "poll_choice", "poll_choice")
    assert (item.external_id, item.poll_external_id, item.options, item.question) == (
        "VOTE-1",
        "POLL-9",
        ["Tarde"],
        "Qual horário?",
    )
    assert (item.content.type, item.content.text, item.sent_at) == ("POLL_VOTE", "Tarde", SENT_AT)
    assert item.voter == item.address == Address(PHONE, "5548991001234")
    assert item.totals == [
        {"id": "opt-manha", "text": "Manhã", "votes": 0},
        {"id": "opt-tarde", "text": "Tarde", "votes": 1},
    ]


def test_three_events_of_one_vote_share_an_id() -> None:
    choice = {"pollId": "POLL-9", "question": "Qual?", "selectedOptions": [{"id": None, "text": "Tarde"}]}
    body = official({"id": "VOTE-1", "type": "poll_update", "text": "Tarde"})
    body["payload"]["metadata"]["pollChoice"] = choice
    message = {
        "pollUpdateMessage": {
            "pollCreationMessageKey": {"id": "POLL-9"},
            "vote": {"encPayload": [0, 1], "encIv": "AwQF"},
        }
    }
    items = [read_one(poll_choice()), read_one(body), read_one(upsert(raw(message, {"id": "VOTE-1"})))]
    assert {(item.kind, item.external_id, item.poll_external_id, item.chat) for item in items} == {
        ("vote", "VOTE-1", "POLL-9", JID)
    }
    assert [item.options for item in items] == [["Tarde"], ["Tarde"], None]
    assert [item.reason for item in items] == ["poll_choice", "ok", "raw_inbound_normalized"]
    assert [item.content.text for item in items] == ["Tarde", "Tarde", None]
    assert items[2].vote == {"encPayload": "AAE=", "encIv": "AwQF"}
    assert items[2].canonical["payload"]["metadata"]["interactive"] == {"type": "poll_choice", "id": "POLL-9"}


def test_canonical_vote_without_choice_is_not_hollow() -> None:
    item = read_one(official({"type": "poll_update"}))
    assert (item.kind, item.content.hollow, item.options, item.content.text) == ("vote", False, None, None)


def test_withdrawn_vote() -> None:
    item = read_one(poll_choice(selectedOptions=[]))
    assert (item.options, item.content.text) == ([], "retirou o voto")
    unknown = read_one(poll_choice(selectedOptions=None))
    assert (unknown.options, unknown.content.text) == (None, None)


def test_vote_totals_as_map_and_options_as_texts() -> None:
    item = read_one(
        poll_choice(
            selectedOptions=["Tarde", {"title": "Noite"}, 5, {}],
            aggregates={"optionTotals": {"Manhã": 0, "Tarde": {"text": "À tarde", "votes": "1"}, "x": "many"}},
        )
    )
    assert item.content.text == "Tarde, Noite"
    assert item.totals == [
        {"id": "Manhã", "text": "Manhã", "votes": 0},
        {"id": "Tarde", "text": "À tarde", "votes": 1},
    ]


@pytest.mark.parametrize(
    "change", [{"pollId": None}, {"voterJid": " "}, {"voterJid": None}, {"messageId": "", "voterJid": "5" * 20}]
)
def test_invalid_choice(change: dict[str, Any]) -> None:
    item = read_one(poll_choice(**change))
    assert (item.kind, item.reason) == ("ignored", "poll_choice_invalid")


def test_vote_without_message_id() -> None:
    item = read_one(poll_choice(messageId=None))
    assert item.external_id == f"poll:POLL-9:{JID}:2025-09-16T12:00:00.000Z"
    by_envelope = read_one(poll_choice(messageId=None, timestamp=None))
    assert by_envelope.external_id == f"poll:POLL-9:{JID}:2025-09-16T12:00:01.000Z"


def test_vote_in_a_group() -> None:
    contact = {"remoteJid": GROUP, "participant": JID, "phone": PHONE, "displayName": "Iracema"}
    item = read_one(poll_choice(chatId=GROUP, contact=contact))
    assert (item.chat, item.address, item.is_group) == (GROUP, Address(jid=GROUP), True)
    assert (item.voter, item.sender.name) == (Address(PHONE, "5548991001234"), "Iracema")


def test_our_own_vote_does_not_become_the_contacts() -> None:
    ours = "5511900000000@s.whatsapp.net"
    item = read_one(poll_choice(voterJid=ours, contact={"phone": "+5511900000000", "displayName": "Loja"}))
    assert (item.address, item.name) == (Address(PHONE, "5548991001234"), None)
    assert item.voter == Address("+5511900000000", "5511900000000")


def test_vote_by_phone_in_a_lid_chat_pairs_them() -> None:
    lid = "214365870912345@lid"
    item = read_one(poll_choice(chatId=lid, contact={"owner": "user", "remoteJid": lid, "phone": PHONE}))
    assert (item.chat, item.address) == (JID, Address(PHONE, None, "214365870912345"))
    assert item.voter == item.address


def test_newsletter_vote_is_ignored() -> None:
    assert read_one(poll_choice(chatId="1@newsletter")).reason == "newsletter"
