"""Raw upserts of the WhatsApp library behind the broker (spec/inbound.md section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whatsapp.addresses import parse_jid
from whatsapp.normalizers.content import content_metadata, read_content, type_word
from whatsapp.normalizers.effects import read_protocol, read_reaction
from whatsapp.normalizers.entries import raw_block, upsert_entries
from whatsapp.normalizers.items import Frame
from whatsapp.normalizers.parties import read_party, refusal
from whatsapp.normalizers.values import (
    as_dict,
    as_flag,
    as_id,
    as_int,
    as_label,
    deep_clean,
    present,
    sent_time,
)
from whatsapp.normalizers.wrappers import unwrap
from whatsapp.schemas import Ignored

if TYPE_CHECKING:
    from datetime import datetime

    from whatsapp.normalizers.kinds import Reading
    from whatsapp.normalizers.wrappers import Unwrapped
    from whatsapp.schemas import Item

_IGNORED = "raw_inbound_ignored"
_KEY_FIELDS = ("id", "remoteJid", "participant", "fromMe")


def normalize_upsert(
    entry: dict[str, Any], instance_id: str, received_at: datetime, *, raw_fallback: bool
) -> list[Item]:
    """Read each message of an upsert alone; none when the upsert is empty."""
    payload = as_dict(entry.get("payload"))
    raw = raw_block(payload)
    messages = upsert_entries(payload, raw)
    if messages is None:
        return [Ignored("invalid_contract" if raw_fallback else "raw_fallback_disabled", None, instance_id)]
    if not raw_fallback:
        return [_acknowledge(as_dict(message), instance_id) for message in messages]
    times = (payload.get("timestamp"), entry.get("timestamp"))
    origin = present(
        owner=as_label(payload.get("owner")),
        source=as_label(payload.get("source")),
        upsertType=as_label(raw.get("type")) or as_label(payload.get("type")),
    )
    return [_normalize_entry(as_dict(message), instance_id, times, origin, received_at) for message in messages]


def is_stub(entry: dict[str, Any]) -> bool:
    """Tell whether a raw message is a notice of the system: a type that is neither 0 nor its name UNKNOWN."""
    stub = entry.get("messageStubType")
    return bool(stub) and stub != "UNKNOWN" and as_int(stub) != 0


def _acknowledge(entry: dict[str, Any], instance_id: str) -> Ignored:
    external_id = as_id(as_dict(entry.get("key")).get("id"))
    return Ignored("raw_fallback_disabled", None, instance_id, external_id, type_word(entry.get("message")))


def _normalize_entry(
    entry: dict[str, Any],
    instance_id: str,
    times: tuple[Any, ...],
    origin: dict[str, str],
    received_at: datetime,
) -> Item:
    key = as_dict(entry.get("key"))
    external_id = as_id(key.get("id"))
    if external_id is None:
        return Ignored(_IGNORED, "invalid_entry", instance_id)
    jid, alt = parse_jid(key.get("remoteJid")), parse_jid(key.get("remoteJidAlt"))
    if cause := refusal((jid,)):
        return Ignored(_IGNORED, cause, instance_id, external_id, type_word(entry.get("message")))
    message = unwrap(entry.get("message"))
    from_me = as_flag(key.get("fromMe"))
    void = _void(entry, message)
    cause = "from_me" if from_me else void
    names = {name: entry.get(name) for name in ("pushName", "notifyName")}
    party = read_party(names, (jid, alt), (parse_jid(key.get("participant")), parse_jid(key.get("participantAlt"))))
    if party is None:
        return Ignored(_IGNORED if cause else "no_sender", cause, instance_id, external_id)
    sent_at, original = sent_time((entry.get("messageTimestamp"), *times), received_at)
    frame = Frame(instance_id, external_id, party, not from_me, sent_at, original)
    if effect := _read_effect(message, frame, cause):
        return effect
    reading = None if void else read_content(message)
    if reading is None:
        return Ignored(_IGNORED, cause or "empty_message", instance_id, external_id)
    content = reading.content
    metadata = _metadata(key, frame, reading, origin)
    if from_me:
        return frame.item(content, origin="raw", reason=_IGNORED, cause=cause, metadata=metadata, canonical=None)
    event = frame.event(external_id, _message(entry, key, external_id, reading), metadata)
    return frame.item(content, origin="raw", reason="raw_inbound_normalized", metadata=metadata, canonical=event)


def _void(entry: dict[str, Any], message: Unwrapped) -> str | None:
    """Give the cause that makes an entry no message, whoever sent it."""
    if is_stub(entry):
        return "message_stub"
    if message.void:
        return message.void
    if "protocolMessage" in message.keys:
        return "protocol_message"
    return "history_sync" if "historySyncNotification" in message.keys else None


def _read_effect(message: Unwrapped, frame: Frame, cause: str | None) -> Item | None:
    """Read a revoke, an edit or a reaction: counted by its cause when it has one, and applied all the same."""
    keys = message.keys
    if "protocolMessage" not in keys and "reactionMessage" not in keys:
        return None
    event = {**frame.effect(), "reason": _IGNORED if cause else "reaction", "cause": cause}
    if "protocolMessage" in keys:
        return read_protocol(keys["protocolMessage"], event)
    return read_reaction(keys["reactionMessage"], event) or Ignored(
        "invalid_contract", None, frame.instance_id, frame.external_id, "reaction"
    )


def _message(entry: dict[str, Any], key: dict[str, Any], external_id: str, reading: Reading) -> dict[str, Any]:
    content, quote = reading.content, reading.content.quote
    message = {
        "id": external_id,
        "type": content.payload_type,
        "text": content.text,
        "key": deep_clean({name: key[name] for name in _KEY_FIELDS if name in key}),
        **present(messageTimestamp=as_int(entry.get("messageTimestamp"))),
        **reading.wire,
    }
    if quote:
        message.update(
            present(quotedMessageId=quote.external_id, quotedText=quote.text, quotedParticipant=quote.participant)
        )
    return message


def _metadata(key: dict[str, Any], frame: Frame, reading: Reading, origin: dict[str, str]) -> dict[str, Any]:
    jid, participant = as_label(key.get("remoteJid")), as_label(key.get("participant"))
    return {
        "source": "raw_normalized",
        "broker": {
            "type": "baileys",
            "direction": "inbound" if frame.inbound else "outbound",
            "normalized": True,
            "messageType": reading.content.payload_type,
            **origin,
        },
        "rawKey": present(remoteJid=_user(jid), participant=_user(participant), jid=jid, participantJid=participant),
        "contact": present(
            # That of a fromMe entry is our own name.
            pushName=frame.party.contact["pushName"] if frame.inbound else None,
            isGroup=frame.party.is_group,
            participantJid=participant,
            remoteJid=jid,
        ),
        **content_metadata(reading.content),
    }


def _user(jid: str | None) -> str | None:
    parsed = parse_jid(jid)
    return parsed.user if parsed else None
