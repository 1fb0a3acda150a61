"""Canonical events: the shapes of the seed and of the official broker, and the older one (section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whatsapp.addresses import parse_jid
from whatsapp.normalizers.effects import read_protocol, read_reaction
from whatsapp.normalizers.entries import INBOUND, MESSAGE, OUTBOUND, word_kind
from whatsapp.normalizers.items import Frame
from whatsapp.normalizers.official import read_canonical
from whatsapp.normalizers.parties import contact_extras, read_party, refusal
from whatsapp.normalizers.raw import is_stub
from whatsapp.normalizers.values import as_dict, as_id, as_text, deep_clean, sent_time
from whatsapp.normalizers.wrappers import unwrap
from whatsapp.schemas import Ignored

if TYPE_CHECKING:
    from datetime import datetime

    from whatsapp.normalizers.parties import Party
    from whatsapp.normalizers.wrappers import Unwrapped
    from whatsapp.schemas import Content, Item

_OUTBOUND_WORDS = frozenset({"outbound", "outgoing", "sent", "out"})


def normalize_message(
    entry: dict[str, Any], kind: str, instance_id: str, received_at: datetime, *, raw_fallback: bool
) -> Item:
    """Read one MESSAGE_INBOUND or MESSAGE_OUTBOUND event, or one of the older shape."""
    older = type(entry.get("payload")) is not dict
    payload: dict[str, Any] = {**entry, "contact": entry.get("from")} if older else entry["payload"]
    message = deep_clean(payload.get("message"))
    own_id = as_id(as_dict(message).get("id")) or as_id(as_dict(as_dict(message).get("key")).get("id"))
    external_id = own_id or as_id(entry.get("id"))
    if type(message) is not dict or external_id is None:
        return Ignored("invalid_contract", None, instance_id)
    inbound = _is_inbound(entry, payload, kind) if older or kind == MESSAGE else kind == INBOUND

    contact = as_dict(payload.get("contact"))
    metadata = _read_metadata(payload, contact)
    raw = unwrap(message["message"] if type(message.get("message")) is dict else message)
    content = read_canonical(message, raw, metadata, may_wait=inbound and raw_fallback)
    party, reason = _read_party(contact, message)
    if party is None:
        return Ignored(reason, None, instance_id, external_id, content.payload_type)
    if party.is_group:
        author = {"participantJid": party.sender.jid} if party.sender and party.sender.jid else {}
        metadata["contact"] = {**as_dict(metadata.get("contact")), "isGroup": True, **author}

    times = (message.get("messageTimestamp"), message.get("timestamp"), metadata.get("timestamp"))
    sent_at, original = sent_time((*times, payload.get("timestamp"), entry.get("timestamp")), received_at)
    frame = Frame(instance_id, external_id, party, inbound, sent_at, original)
    if other := _read_other(message, raw, content, frame):
        return other
    event = frame.event(as_id(entry.get("id")) or external_id, message, metadata)
    if cursor := deep_clean(entry.get("cursor")):
        event["cursor"] = cursor
    reason = "ok" if inbound else "outbound_echo"
    return frame.item(content, origin="canonical", reason=reason, metadata=metadata, canonical=event)


def _is_inbound(entry: dict[str, Any], payload: dict[str, Any], kind: str) -> bool:
    # In the older shape `direction` decides; the word `message` gives none, a type beside it may.
    word = as_text(entry.get("direction")) or as_text(payload.get("direction"))
    if word:
        return word.lower() not in _OUTBOUND_WORDS
    return OUTBOUND not in (kind, word_kind(entry.get("type")))


def _read_metadata(payload: dict[str, Any], contact: dict[str, Any]) -> dict[str, Any]:
    """Give a clean copy of the metadata, with `broker` an object and the unknown keys of the contact."""
    metadata: dict[str, Any] = deep_clean(as_dict(payload.get("metadata")))
    broker = metadata.get("broker")
    if type(broker) is str:
        metadata["broker"] = {"type": broker.strip()}
    elif type(broker) is not dict:
        metadata.pop("broker", None)
    if extras := contact_extras(contact):
        metadata["contact"] = {**as_dict(metadata.get("contact")), **extras}
    return metadata


def _read_party(contact: dict[str, Any], message: dict[str, Any]) -> tuple[Party | None, str]:
    """Find who the event is about, or the reason why it is nobody."""
    key = as_dict(message.get("key"))
    chats = (contact.get("remoteJid"), message.get("chatId"), key.get("remoteJid"), key.get("remoteJidAlt"))
    # The official broker says the same jid twice.
    conversation = [parse_jid(chat) for chat in dict.fromkeys(map(as_text, chats))]
    if reason := refusal(conversation):
        return None, reason
    authors = (contact.get("participant"), key.get("participant"), key.get("participantAlt"))
    return read_party(contact, conversation, map(parse_jid, authors)), "no_sender"


def _read_other(message: dict[str, Any], raw: Unwrapped, content: Content, frame: Frame) -> Item | None:
    """Read what a forwarded raw message may be besides a message: an effect, or nothing to store."""
    keys, cause = raw.keys, None
    if "protocolMessage" in keys:
        if effect := read_protocol(keys["protocolMessage"], {**frame.effect(), "reason": "ok"}):
            return effect
        cause = "protocol_message"
    elif type(keys.get("reactionMessage")) is dict:
        return read_reaction(keys["reactionMessage"], {**frame.effect(), "reason": "reaction"}) or Ignored(
            "invalid_contract", None, frame.instance_id, frame.external_id, "reaction"
        )
    elif is_stub(message):
        cause = "message_stub"
    elif "historySyncNotification" in keys:
        cause = "history_sync"
    elif raw.flags.get("skd") and content.type == "UNKNOWN" and content.unknown_kind is None:
        cause = "sender_key_only"
    return Ignored("raw_inbound_ignored", cause, frame.instance_id, frame.external_id) if cause else None
