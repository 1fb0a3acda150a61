"""Addresses of WhatsApp: JIDs, phones, LIDs and the Brazilian ninth digit (spec/inbound.md section 7)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import phonenumbers

from whatsapp.schemas import Address

PHONE_SERVER = "s.whatsapp.net"
LID_SERVER = "lid"
GROUP_SERVER = "g.us"
NEWSLETTER_SERVER = "newsletter"
STATUS_JID = "status@broadcast"

_MAX_JID = 255
_JID = re.compile(r"([^\s@:\x00]+?)(?:_\d+)?(?::\d+)?@([a-z0-9][a-z0-9.-]*)", re.IGNORECASE | re.ASCII)
_PHONE_DIGITS = re.compile(r"[1-9][0-9]{7,14}")
_LID_DIGITS = re.compile(r"[0-9]+")
_FORMATTING = str.maketrans("", "", "+ -().\u00a0")
# 55, an area code (11 to 99, no zeros), then the old eight digits of a mobile; landlines start with 2 to 5.
_OLD_MOBILE = re.compile(r"(55[1-9][1-9])([6-9][0-9]{7})")
_NUMBER_NAME = re.compile(r"\+?[0-9\s().\u00a0-]+")
_SERVERS = frozenset({PHONE_SERVER, "c.us", LID_SERVER, GROUP_SERVER, NEWSLETTER_SERVER, "broadcast"})


class Jid(NamedTuple):
    """An address `user@server`, without device and agent."""

    user: str
    server: str

    @property
    def bare(self) -> str:
        return f"{self.user}@{self.server}"

    @property
    def is_group(self) -> bool:
        return self.server == GROUP_SERVER


def parse_jid(value: Any) -> Jid | None:
    """Read `user[_agent][:device]@server`; None for anything else. `c.us` is the phone server too."""
    if type(value) is not str or len(value) > _MAX_JID:
        return None
    match = _JID.fullmatch(value.strip())
    if match is None:
        return None
    user, server = match.groups()
    server = server.lower()
    try:
        user.encode()
    except UnicodeEncodeError:
        return None
    return Jid(user, PHONE_SERVER if server == "c.us" else server)


def canonical_phone(digits: str) -> str | None:
    """Give E.164 for 8 to 15 digits, a Brazilian mobile with its ninth digit; None when they are no phone."""
    if not _PHONE_DIGITS.fullmatch(digits):
        return None
    old_mobile = _OLD_MOBILE.fullmatch(digits)
    return "+" + (f"{old_mobile[1]}9{old_mobile[2]}" if old_mobile else digits)


def read_phone(value: Any) -> str | None:
    """Read a phone as a broker writes it (digits with country code, any formatting, or a phone JID)."""
    if type(value) is int:
        value = str(value) if 0 < value < 10**15 else None
    if type(value) is not str or len(value) > _MAX_JID:
        return None
    if "@" in value:
        jid = parse_jid(value)
        return canonical_phone(jid.user) if jid and jid.server == PHONE_SERVER else None
    return canonical_phone(value.strip().translate(_FORMATTING))


def read_card_phone(value: str) -> str:
    """Read a phone of a contact card, a national one as Brazilian; what is no phone stays as written."""
    try:
        number = phonenumbers.parse(value, "BR")
    except phonenumbers.NumberParseException:
        return value
    if not phonenumbers.is_possible_number(number):
        return value
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def build_address(*jids: Jid | None, phone: str | None = None) -> Address:
    """Join all that one event says of one person or group. A phone that only repeats the LID is no phone."""
    wa_address = lid = opaque = None
    for jid in jids:
        if jid is None:
            continue
        if jid.server == LID_SERVER and _LID_DIGITS.fullmatch(jid.user):
            lid = lid or jid.user
        elif jid.server == PHONE_SERVER and (number := canonical_phone(jid.user)):
            phone = phone or number
            if number == phone:
                wa_address = wa_address or jid.user
        else:
            opaque = opaque or jid.bare
    if lid and phone == f"+{lid}":
        phone = None
    return Address(phone, wa_address, lid, opaque)


def chat_of(address: Address) -> str | None:
    """Give the bare jid that stands for a conversation: of the phone, else of the LID, else the jid itself."""
    if address.phone:
        return f"{address.phone[1:]}@{PHONE_SERVER}"
    return f"{address.lid}@{LID_SERVER}" if address.lid else address.jid


def is_no_name(name: str) -> bool:
    """Tell whether a display name is only a number or a JID, which is never shown as a name."""
    if "@" in name:
        jid = parse_jid(name)
        return jid is not None and jid.server in _SERVERS
    return _NUMBER_NAME.fullmatch(name) is not None and sum(map(str.isdigit, name)) >= 8
