"""The bodies of the webhooks, as pure functions (spec/broker.md section 5, shared/corpus/webhooks.jsonl).

The order of the keys is the recorded one: the bodies are signed as bytes, and a reader of logs compares them by eye.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from whatsapp.simulator.behaviours import Encoding

Json = dict[str, Any]

PHONE_SERVER = "@s.whatsapp.net"
STATUS_POSTS = "status@broadcast"
BYTES_FIELDS = frozenset(
    {"mediaKey", "fileSha256", "fileEncSha256", "jpegThumbnail", "messageSecret", "encPayload", "encIv", "waveform"}
)
LONG_FIELDS = frozenset({"messageTimestamp", "fileLength", "mediaKeyTimestamp", "senderTimestampMs"})
HOLLOW = (
    "ephemeralMessage",
    "viewOnceMessage",
    "viewOnceMessageV2",
    "viewOnceMessageV2Extension",
    "editedMessage",
)
MEDIA_KINDS = {
    "imageMessage": "image",
    "videoMessage": "video",
    "ptvMessage": "video",
    "audioMessage": "audio",
    "documentMessage": "document",
    "stickerMessage": "sticker",
}


_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One WhatsApp message as its socket sees it; `chat` and `sender` are phone or group JIDs, never LIDs."""

    id: str
    chat: str
    sender: str
    from_me: bool
    timestamp: int
    content: Json
    push_name: str | None = None
    lid: str | None = None
    lid_only: bool = False
    stub: str | None = None
    by_api: bool = False

    @property
    def direct(self) -> bool:
        """Whether the chat is one person, neither a group nor the status posts."""
        return self.chat.partition("@")[2] not in ("g.us", "broadcast")

    @property
    def canonical(self) -> bool:
        """Whether it makes a MESSAGE_INBOUND: not ours, no stub, no revoke, not empty."""
        return not self.from_me and self.stub is None and bool(self.content) and "protocolMessage" not in self.content


def encode(body: object) -> bytes:
    """Writes compact JSON; a lone surrogate becomes its escape, as JavaScript writes it."""
    return _compact(body).encode("utf-8", "backslashreplace")


def sign(secret: str, body: bytes) -> str:
    """Signs the exact bytes: lower-case hex of HMAC-SHA256."""
    return hmac.digest(secret.encode(), body, "sha256").hex()


def envelope(event: str, instance_id: str, payload: Json, now: float) -> Json:
    """Wraps a payload; `now` is in unix seconds."""
    return {"event": event, "instanceId": instance_id, "timestamp": int(now), "payload": payload}


def iso(seconds: float) -> str:
    """Writes a time as JavaScript's toISOString does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(seconds * 1000) % 1000:03d}Z"


def phone_jid(value: str) -> str:
    """Turns digits in any dress into a JID; a JID stays as it is."""
    return value if "@" in value else re.sub(r"[^0-9]", "", value) + PHONE_SERVER


def phone_of(jid: str) -> str | None:
    """Gives `+55...` of a phone JID, None of any other."""
    user, _, server = jid.partition("@")
    return f"+{user}" if f"@{server}" == PHONE_SERVER else None


def canonical_payload(message: Message, poll_choice: Json | None = None) -> Json:
    """Builds the payload of MESSAGE_INBOUND or MESSAGE_OUTBOUND, with the broker's gaps."""
    inbound = not message.from_me
    # Without the Alt field the broker cannot resolve a LID to a phone, and shows the LID itself.
    resolved = message.chat if message.direct else message.sender
    peer = message.lid if message.lid is not None and message.lid_only else resolved
    chat = peer if message.direct else message.chat
    phone = phone_of(peer) if inbound or message.direct else None
    return {
        "contact": {
            "owner": "user" if inbound else "device",
            "remoteJid": chat,
            "participant": peer if inbound and not message.direct else None,
            "phone": phone,
            "displayName": (message.push_name if inbound else None) or phone,
            "isGroup": message.chat.endswith("@g.us"),
        },
        "message": {"id": message.id, "chatId": chat, **_canonical_content(message.content)},
        "metadata": {
            "timestamp": iso(message.timestamp),
            "broker": {"direction": "inbound" if inbound else "outbound", "type": "baileys"},
            "source": "baileys-acessus",
            "pollChoice": poll_choice,
        },
    }


def upsert_payload(instance_id: str, messages: Sequence[Message], type_: str, encoding: Encoding) -> Json:
    """Builds the payload of WHATSAPP_MESSAGES_UPSERT: each message that is not ours stands in it three times."""
    raw = [_encode_fields(raw_message(message), encoding) for message in messages]
    kept = [entry for entry, message in zip(raw, messages, strict=True) if message.canonical]
    return {
        "iid": instance_id,
        "raw": {"messages": raw, "type": type_},
        "normalized": {"messages": kept, "type": type_},
        "messages": kept,
    }


def update_payload(instance_id: str, message: Message, status: int) -> Json:
    """Builds the payload of WHATSAPP_MESSAGES_UPDATE for one ack."""
    change: Json = {"status": status}
    if status == 0:
        change["messageStubParameters"] = ["463"]
    key = {"remoteJid": _addressed(message)["remoteJid"], "id": message.id, "fromMe": message.from_me}
    return {"iid": instance_id, "raw": {"updates": [{"key": key, "update": change}]}}


def poll_choice_payload(message: Message, poll: Message, votes: dict[str, list[str]]) -> Json:
    """Builds the payload of POLL_CHOICE; `votes` are the options chosen per voter, this vote included."""
    created = poll.content["pollCreationMessageV3"]
    chosen = votes[message.sender]
    totals = [
        {"id": option, "text": option, "votes": sum(option in choice for choice in votes.values())}
        for option in (entry["optionName"] for entry in created["options"])
    ]
    contact = {**canonical_payload(message)["contact"], "participant": message.sender}
    return {
        "pollId": poll.id,
        "question": created["name"],
        "chatId": message.chat,
        "messageId": message.id,
        "timestamp": iso(message.timestamp),
        "voterJid": message.sender,
        "selectedOptions": [{"id": option, "text": option} for option in chosen],
        "optionsAggregates": totals,
        "aggregates": {
            "totalVoters": sum(bool(choice) for choice in votes.values()),
            "totalVotes": sum(total["votes"] for total in totals),
            "optionTotals": totals,
        },
        "contact": contact,
    }


def raw_message(message: Message) -> Json:
    """Builds one entry of an upsert; own sends through the API have another shape than what a phone sends."""
    if message.by_api:
        return {
            "key": {**_addressed(message), "fromMe": True, "id": message.id},
            "message": message.content,
            "messageTimestamp": str(message.timestamp),
            "status": "PENDING",
        }
    key = {**_addressed(message), "fromMe": message.from_me, "id": message.id}
    if not message.direct:
        key["participant"] = message.lid or message.sender
        if message.lid and not message.lid_only:
            key["participantAlt"] = message.sender
    key["addressingMode"] = "lid" if message.lid else "pn"
    entry: Json = {"key": key, "messageTimestamp": message.timestamp}
    if message.push_name is not None:
        entry["pushName"] = message.push_name
    entry["broadcast"] = False
    if message.stub is not None:
        return {**entry, "messageStubType": message.stub}
    return {**entry, "message": message.content} if message.content else entry


def text_of(content: Json) -> str | None:
    """Gives the text or caption of a content, without looking into wrappers."""
    if "conversation" in content:
        return str(content["conversation"])
    for body in content.values():
        if isinstance(body, dict) and (found := body.get("text") or body.get("caption")):
            return str(found)
    return None


def in_chat(message: Message, content: Json, *, id_: str, timestamp: int) -> Message:
    """Makes another message of the same author in the same chat, as an edit or a revoke is."""
    return replace(message, id=id_, timestamp=timestamp, content=content, by_api=False)


def _addressed(message: Message) -> Json:
    if message.lid is None or not message.direct:
        return {"remoteJid": message.chat}
    return {"remoteJid": message.lid} if message.lid_only else {"remoteJid": message.lid, "remoteJidAlt": message.chat}


def _canonical_content(content: Json) -> Json:
    kind = next((name for name in content if name not in ("messageContextInfo", "senderKeyDistributionMessage")), "")
    body = content.get(kind)
    if kind == "conversation":
        return {"type": "text", "text": body}
    if kind in HOLLOW or not isinstance(body, dict):
        return {"type": None, "text": None}
    if kind == "extendedTextMessage":
        return {"type": "text", "text": body.get("text")}
    if kind in MEDIA_KINDS:
        media = _media_block(MEDIA_KINDS[kind], body)
        return {"type": "media", "text": body.get("caption"), "media": media}
    if kind == "documentWithCaptionMessage":
        return {"type": "media", "text": text_of(body.get("message", {}))}
    if kind == "locationMessage":
        return {"type": "location", "text": None, "media": _location_block(body)}
    if kind in ("contactMessage", "contactsArrayMessage"):
        return {"type": "contact", "text": None}
    if kind.startswith("pollCreationMessage"):
        return {"type": "poll", "text": body.get("name")}
    if kind == "pollUpdateMessage":
        return {"type": "poll_update", "text": None}
    interactive = _interactive(kind, body)
    return {
        "type": interactive and interactive["type"],
        "text": None,
        **({"interactive": interactive} if interactive else {}),
    }


def _media_block(kind: str, body: Json) -> Json:
    size = body.get("fileLength")
    block = {
        "mediaType": kind,
        "mimetype": body.get("mimetype"),
        "fileName": body.get("fileName"),
        "size": int(size) if size is not None else None,
        "caption": body.get("caption"),
    }
    return block | {name: body[name] for name in ("width", "height", "seconds", "ptt") if name in body}


def _location_block(body: Json) -> Json:
    return {
        "mediaType": "location",
        "mimetype": None,
        "fileName": None,
        "size": None,
        "caption": body.get("name"),
        "latitude": body.get("degreesLatitude"),
        "longitude": body.get("degreesLongitude"),
    }


def _interactive(kind: str, body: Json) -> Json | None:
    if kind == "buttonsResponseMessage":
        title = body.get("selectedDisplayText")
        return {"type": "buttons_response", "id": body.get("selectedButtonId"), "title": title}
    if kind == "listResponseMessage":
        row = body.get("singleSelectReply", {}).get("selectedRowId")
        return {"type": "list_response", "id": row, "title": body.get("title"), "rowId": row}
    if kind == "templateButtonReplyMessage":
        return {"type": "interactive", "id": body.get("selectedId"), "title": body.get("selectedDisplayText")}
    if kind == "interactiveResponseMessage":
        return {"type": "interactive", "id": None, "title": body.get("body", {}).get("text")}
    return None


def _encode_fields(value: Any, encoding: Encoding) -> Any:
    if encoding.bytes == "base64" and encoding.longs == "string":
        return value
    return _walk(value, encoding)


def _walk(value: Any, encoding: Encoding) -> Any:
    if isinstance(value, list):
        return [_walk(item, encoding) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _field(name, item, encoding) for name, item in value.items()}


def _field(name: str, value: Any, encoding: Encoding) -> Any:
    if name in BYTES_FIELDS and encoding.bytes != "base64" and isinstance(value, str):
        numbers = list(b64decode(value))
        if encoding.bytes == "buffer":
            return {"type": "Buffer", "data": numbers}
        return {str(index): number for index, number in enumerate(numbers)}
    if name in LONG_FIELDS and encoding.longs == "object" and isinstance(value, int | str):
        number = int(value)
        return {"low": _int32(number), "high": number >> 32, "unsigned": True}
    return _walk(value, encoding)


def _int32(number: int) -> int:
    low = number & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low
