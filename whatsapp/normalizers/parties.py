"""Who an event is about: the conversation, its contact, in groups the person (spec/inbound.md section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from whatsapp.addresses import NEWSLETTER_SERVER, STATUS_JID, build_address, chat_of, is_no_name, read_phone
from whatsapp.normalizers.values import as_id, as_label, as_list, as_text, clean_text, deep_clean
from whatsapp.schemas import Address, Sender

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whatsapp.addresses import Jid

_CONTACT_KEYS = frozenset({"phone", "name", "document", "registrations", "avatarUrl", "pushName"})
_MAX_URL = 2048


class Party(NamedTuple):
    """The two sides of a conversation. contact: the `payload.contact` of the canonical event."""

    chat: str
    address: Address
    is_group: bool
    sender: Sender | None
    subject: str | None
    contact: dict[str, Any]

    @property
    def actor(self) -> Address:
        """Who did what the event tells: the person in a group, else the contact."""
        return (self.sender.address if self.sender else Address()) if self.is_group else self.address

    def fields(self) -> dict[str, Any]:
        """Give the fields of a result that describe the contact; of a group only the subject is known."""
        if self.is_group:
            return {"group_subject": self.subject, "name": self.subject, "sender": self.sender}
        contact = self.contact
        return {
            "name": contact["name"],
            "push_name": contact["pushName"],
            "document": contact["document"],
            "registrations": contact["registrations"],
            "avatar_url": contact["avatarUrl"],
        }


def refusal(jids: Iterable[Jid | None]) -> str | None:
    """Tell why a conversation is none of ours: a status post or a newsletter."""
    for jid in jids:
        if jid is None:
            continue
        if jid.server == NEWSLETTER_SERVER:
            return "newsletter"
        if jid.bare == STATUS_JID:
            return "status_broadcast"
    return None


def read_party(
    contact: dict[str, Any], conversation: Iterable[Jid | None], people: Iterable[Jid | None]
) -> Party | None:
    """Join the contact block and the jids of an event; None when they name nobody.

    conversation: jids of the chat, all of one person or one group. people: jids of the author, for groups.
    """
    jids = [jid for jid in conversation if jid is not None]
    group = next((jid for jid in jids if jid.is_group), None)
    phone = read_phone(contact.get("phone"))
    name = display_name(
        contact.get("name"), contact.get("pushName"), contact.get("notifyName"), contact.get("displayName")
    )
    if group is None:
        address = person = build_address(*jids, phone=phone)
        sender = subject = None
    else:
        authors = [jid for jid in people if jid is not None]
        person = build_address(*authors, phone=phone)
        address = Address(jid=group.bare)
        known = name or authors or person.phone
        sender = Sender(name, person, authors[0].bare if authors else None) if known else None
        subject = as_label(contact.get("groupSubject")) or as_label(contact.get("subject"))
    chat = chat_of(address)
    if chat is None:
        return None
    block = _read_contact(contact, person.phone, name)
    return Party(chat, address, group is not None, sender, subject, block)


def contact_extras(contact: dict[str, Any]) -> dict[str, Any]:
    """Give the keys of a contact block that we do not know: they move to `metadata.contact`."""
    return {
        clean_text(key): deep_clean(value)
        for key, value in contact.items()
        if value is not None and key not in _CONTACT_KEYS
    }


def display_name(*candidates: Any) -> str | None:
    """Give the first candidate that is a name: no blank, no bare number, no JID."""
    for candidate in candidates:
        name = as_label(candidate)
        if name and not is_no_name(name):
            return name
    return None


def _read_contact(contact: dict[str, Any], phone: str | None, name: str | None) -> dict[str, Any]:
    registrations = [label for value in as_list(contact.get("registrations")) if (label := as_label(value))]
    avatar = as_text(contact.get("avatarUrl"))
    if avatar and (len(avatar) > _MAX_URL or not avatar.lower().startswith(("https://", "http://"))):
        avatar = None
    return {
        "phone": phone,
        "name": name,
        "document": as_id(contact.get("document")),
        "registrations": registrations or None,
        "avatarUrl": avatar,
        "pushName": display_name(contact.get("pushName")),
    }
