"""JIDs, phones, LIDs and the Brazilian ninth digit (spec/inbound.md section 7)."""

from __future__ import annotations

from typing import Any

import pytest

from whatsapp.addresses import (
    Jid,
    build_address,
    canonical_phone,
    chat_of,
    is_no_name,
    parse_jid,
    read_card_phone,
    read_phone,
)
from whatsapp.schemas import Address


@pytest.mark.parametrize(
    ("text", "jid"),
    [
        ("5548991001234@s.whatsapp.net", Jid("5548991001234", "s.whatsapp.net")),
        (" 5548991001234:12@s.whatsapp.net ", Jid("5548991001234", "s.whatsapp.net")),
        ("5548991001234_1:12@S.WhatsApp.net", Jid("5548991001234", "s.whatsapp.net")),
        ("5548991001234@c.us", Jid("5548991001234", "s.whatsapp.net")),
        ("214365870912345:3@lid", Jid("214365870912345", "lid")),
        ("120363044455566677@g.us", Jid("120363044455566677", "g.us")),
        ("5511999990000-1612345678@g.us", Jid("5511999990000-1612345678", "g.us")),
        ("status@broadcast", Jid("status", "broadcast")),
        ("some_bot@bot", Jid("some_bot", "bot")),
        ("5548991001234", None),
        ("@s.whatsapp.net", None),
        ("a b@lid", None),
        ("a@b@lid", None),
        ("x" * 300 + "@lid", None),
        ("a\ud83d@lid", None),
        ("a\x00@lid", None),
        (None, None),
        (5, None),
    ],
)
def test_parse_jid(text: Any, jid: Jid | None) -> None:
    assert parse_jid(text) == jid


@pytest.mark.parametrize(
    ("digits", "phone"),
    [
        ("554891001234", "+5548991001234"),  # old mobile: the ninth digit is added
        ("5548991001234", "+5548991001234"),
        ("554861001234", "+5548961001234"),
        ("554832221234", "+554832221234"),  # landline
        ("554852221234", "+554852221234"),
        ("550800123456", "+550800123456"),  # 0800 has no area code
        ("14155551234", "+14155551234"),
        ("351912345678", "+351912345678"),
        ("12345678", "+12345678"),
        ("123456789012345", "+123456789012345"),
        ("1234567", None),
        ("1234567890123456", None),
        ("0554891001234", None),
        ("", None),
        ("٥٥٤٨٩١٠٠١٢٣٤", None),
    ],
)
def test_canonical_phone(digits: str, phone: str | None) -> None:
    assert canonical_phone(digits) == phone


@pytest.mark.parametrize(
    ("value", "phone"),
    [
        ("+55 (48) 9100-1234", "+5548991001234"),
        ("5548991001234", "+5548991001234"),
        (5548991001234, "+5548991001234"),
        ("554891001234@s.whatsapp.net", "+5548991001234"),
        ("214365870912345@lid", None),
        ("+55 48 call me", None),
        ("", None),
        (None, None),
        (True, None),
        (-5548991001234, None),
        (10**400, None),
        ({"number": 1}, None),
    ],
)
def test_read_phone(value: Any, phone: str | None) -> None:
    assert read_phone(value) == phone


def test_read_card_phone() -> None:
    assert read_card_phone("(48) 99100-1234") == "+5548991001234"
    assert read_card_phone("+1 415 555 2671") == "+14155552671"
    assert read_card_phone("ramal 12") == "ramal 12"
    assert read_card_phone("190") == "190"


def test_address_of_a_phone_keeps_what_whatsapp_answers_to() -> None:
    address = build_address(parse_jid("554891001234:2@s.whatsapp.net"))
    assert address == Address(phone="+5548991001234", wa_address="554891001234")
    assert address.identities() == [("phone", "+5548991001234"), ("wa_address", "554891001234")]
    assert chat_of(address) == "5548991001234@s.whatsapp.net"


def test_address_pairs_lid_and_phone() -> None:
    lid, phone = parse_jid("214365870912345@lid"), parse_jid("5548991001234@s.whatsapp.net")
    for jids in ((lid, phone), (phone, lid)):
        address = build_address(*jids)
        assert address == Address("+5548991001234", "5548991001234", "214365870912345")
        assert chat_of(address) == "5548991001234@s.whatsapp.net"
    assert build_address(lid, phone="+5548991001234") == Address("+5548991001234", None, "214365870912345")


def test_lid_is_never_a_phone() -> None:
    lid = parse_jid("214365870912345@lid")
    assert build_address(lid, phone="+214365870912345") == Address(lid="214365870912345")
    assert chat_of(build_address(lid)) == "214365870912345@lid"


def test_other_addresses() -> None:
    assert build_address(parse_jid("120363044455566677@g.us")).identities() == [("jid", "120363044455566677@g.us")]
    assert build_address(parse_jid("0@s.whatsapp.net")) == Address(jid="0@s.whatsapp.net")
    assert build_address(parse_jid("news@lid")) == Address(jid="news@lid")
    assert build_address(None) == Address()
    assert chat_of(Address()) is None


def test_a_jid_of_another_number_adds_no_wa_address() -> None:
    other = parse_jid("5547992002345@s.whatsapp.net")
    assert build_address(other, phone="+5548991001234") == Address("+5548991001234")


@pytest.mark.parametrize(
    ("name", "no_name"),
    [
        ("+5548991001234", True),
        ("+55 48 99100-1234", True),
        ("5548991001234@s.whatsapp.net", True),
        ("214365870912345@lid", True),
        ("Maria", False),
        ("007", False),
        ("ana@loja.com", False),
        ("Loja 48 99100-1234", False),
    ],
)
def test_is_no_name(name: str, no_name: bool) -> None:
    assert is_no_name(name) is no_name
