"""Acks of our own messages (spec/inbound.md section 13), and the edits and revokes that come as updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whatsapp.addresses import build_address, chat_of, parse_jid
from whatsapp.normalizers.effects import edited_content, read_protocol
from whatsapp.normalizers.entries import raw_block, update_entries
from whatsapp.normalizers.values import (
    as_count,
    as_dict,
    as_flag,
    as_id,
    as_int,
    as_label,
    as_list,
    sent_time,
)
from whatsapp.normalizers.wrappers import unwrap
from whatsapp.schemas import Address, Edit, Ignored, Revoke, StatusUpdate

if TYPE_CHECKING:
    from datetime import datetime

    from whatsapp.schemas import Item

_WORDS = {
    "ERROR": 0,
    "PENDING": 1,
    "SERVER_ACK": 2,
    "SENT": 2,
    "DELIVERY_ACK": 3,
    "DELIVERED": 3,
    "READ": 4,
    "SEEN": 4,
    "PLAYED": 5,
}
_STUB_REVOKE = 1


def normalize_updates(entry: dict[str, Any], instance_id: str, received_at: datetime) -> list[Item]:
    """Read each update of a WHATSAPP_MESSAGES_UPDATE event."""
    payload = as_dict(entry.get("payload"))
    updates = update_entries(payload, raw_block(payload))
    if updates is None:
        return [Ignored("invalid_contract", None, instance_id)]
    times = (payload.get("timestamp"), entry.get("timestamp"))
    return [_normalize_update(as_dict(update), instance_id, times, received_at) for update in updates]


def normalize_status(entry: dict[str, Any], instance_id: str, received_at: datetime) -> Item:
    """Read one MESSAGE_STATUS event of the broker's event list; it only tells of messages that are ours."""
    payload = as_dict(entry.get("payload"))
    chat = chat_of(build_address(parse_jid(payload.get("chatId"))))
    at, _ = sent_time((payload.get("timestamp"), entry.get("timestamp")), received_at)
    source = as_label(payload.get("source")) or "message_status"
    return _ack(instance_id, as_id(payload.get("messageId")), chat, payload.get("status"), None, source, at)


def _normalize_update(outer: dict[str, Any], instance_id: str, times: tuple[Any, ...], received_at: datetime) -> Item:
    update = as_dict(outer.get("update"))
    inner_key = as_dict(update.get("key"))
    key = as_dict(outer.get("key")) or inner_key
    external_id = as_id(key.get("id")) or as_id(inner_key.get("id")) or as_id(outer.get("id"))
    if external_id is None:
        return Ignored("invalid_contract", None, instance_id)
    statuses = (update.get("statusV3"), update.get("status"), outer.get("status"), update.get("ack"))
    status = next((value for value in statuses if value is not None), None)
    at, _ = sent_time((update.get("messageTimestamp"), *times), received_at)
    if status is None and (change := _read_change(key, update, instance_id, external_id, at)):
        return change
    # Without any key the update only names an id: nothing says that the message is not ours.
    if not as_flag(key.get("fromMe")) if key else outer.get("fromMe") is False:
        return Ignored("ack_not_outgoing", None, instance_id, external_id)
    chat = chat_of(build_address(parse_jid(key.get("remoteJid")), parse_jid(key.get("remoteJidAlt"))))
    error = _error_code(as_list(update.get("messageStubParameters")))
    return _ack(instance_id, external_id, chat, status, error, "messages_update", at)


def _error_code(parameters: list[Any]) -> str | None:
    if not parameters:
        return None
    number = as_count(parameters[0])
    return as_label(parameters[0]) if number is None else str(number)


def _ack(
    instance_id: str,
    external_id: str | None,
    chat: str | None,
    status: Any,
    error: str | None,
    source: str,
    at: datetime,
) -> Item:
    if external_id is None:
        return Ignored("invalid_contract", None, instance_id)
    rank = _WORDS.get(status.strip().upper()) if type(status) is str else None
    if rank is None:
        rank = as_int(status)
    if rank is None or not 0 <= rank <= 5:
        return Ignored("ack_unknown_status", None, instance_id, external_id)
    return StatusUpdate(
        instance_id=instance_id,
        external_id=external_id,
        chat=chat,
        status=rank,
        error_code=error if rank == 0 else None,
        source=source,
        at=at,
    )


def _read_change(
    key: dict[str, Any], update: dict[str, Any], instance_id: str, external_id: str, at: datetime
) -> Edit | Revoke | None:
    """Read an update that edits or revokes the message of its key; None when it does neither."""
    jid, alt = parse_jid(key.get("remoteJid")), parse_jid(key.get("remoteJidAlt"))
    address = build_address(jid, alt)
    from_me = as_flag(key.get("fromMe"))
    if jid and jid.is_group:
        author = build_address(parse_jid(key.get("participant")), parse_jid(key.get("participantAlt")))
    else:
        author = address
    event: dict[str, Any] = {
        "instance_id": instance_id,
        "external_id": None,
        "chat": chat_of(address),
        "from_me": from_me,
        "actor": Address() if from_me else author,
        "sent_at": at,
        "reason": "ack_applied",
    }
    message = as_dict(update.get("message"))
    if change := read_protocol(unwrap(message).keys.get("protocolMessage"), event):
        return change
    if "editedMessage" in message and (content := edited_content(message)):
        return Edit(target_external_id=external_id, content=content, **event)
    stub = update.get("messageStubType")
    if not message and (stub == "REVOKE" or as_int(stub) == _STUB_REVOKE):
        return Revoke(target_external_id=external_id, **event)
    return None
