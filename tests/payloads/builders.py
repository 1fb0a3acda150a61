"""Wire bodies for tests: a raw upsert, a canonical event, an update, each with one thing changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from whatsapp.normalizers import normalize

RECEIVED_AT = datetime(2025, 9, 16, 12, 5, tzinfo=UTC)
SENT_AT = datetime(2025, 9, 16, 12, 0, tzinfo=UTC)
SENT = 1758024000
"""SENT_AT in seconds."""
JID = "5548991001234@s.whatsapp.net"
PHONE = "+5548991001234"
GROUP = "120363044455566677@g.us"


def read(body: Any, **options: Any) -> list[Any]:
    """Normalise one entry at RECEIVED_AT."""
    settings = {"received_at": RECEIVED_AT, "raw_fallback": True, "default_instance_id": None, **options}
    return list(normalize(body, **settings))


def read_one(body: Any, **options: Any) -> Any:
    """Normalise an entry that gives exactly one item."""
    (item,) = read(body, **options)
    return item


def upsert(*entries: Any, **payload: Any) -> dict[str, Any]:
    return {
        "event": "WHATSAPP_MESSAGES_UPSERT",
        "instanceId": "ipe-01",
        "timestamp": SENT + 5,
        "payload": {"type": "notify", "messages": list(entries), **payload},
    }


def raw(message: Any, key: dict[str, Any] | None = None, **entry: Any) -> dict[str, Any]:
    """Build one entry of an upsert."""
    return {
        "key": {"id": "M1", "remoteJid": JID, "fromMe": False, **(key or {})},
        "messageTimestamp": SENT,
        "pushName": "Iracema Luz",
        "message": message,
        **entry,
    }


def official(message: dict[str, Any], contact: dict[str, Any] | None = None, **event: Any) -> dict[str, Any]:
    """Build a MESSAGE_INBOUND as the official broker posts it."""
    return {
        "event": "MESSAGE_INBOUND",
        "instanceId": "ipe-01",
        "timestamp": SENT,
        "payload": {
            "contact": {
                "owner": "user",
                "remoteJid": JID,
                "participant": None,
                "phone": PHONE,
                "displayName": "Iracema Luz",
                "isGroup": False,
                **(contact or {}),
            },
            "message": {"id": "M1", "chatId": JID, "type": None, "text": None, **message},
            "metadata": {
                "timestamp": "2025-09-16T12:00:00.000Z",
                "broker": {"direction": "inbound", "type": "baileys"},
                "source": "baileys-acessus",
                "pollChoice": None,
            },
        },
        **event,
    }


def seed(message: Any, contact: Any = None, **event: Any) -> dict[str, Any]:
    """Build a MESSAGE_INBOUND in the seed's shape."""
    return {
        "id": "ev-1",
        "type": "MESSAGE_INBOUND",
        "instanceId": "ipe-01",
        "timestamp": "2025-09-16T12:00:00.000Z",
        "payload": {
            "contact": {"phone": PHONE, "name": "Iracema"} if contact is None else contact,
            "message": message,
            "metadata": {"broker": "baileys"},
        },
        **event,
    }


def update(status: Any = None, key: dict[str, Any] | None = None, **change: Any) -> dict[str, Any]:
    """Build a WHATSAPP_MESSAGES_UPDATE with one update."""
    if status is not None:
        change["status"] = status
    return {
        "event": "WHATSAPP_MESSAGES_UPDATE",
        "instanceId": "ipe-01",
        "timestamp": SENT + 10,
        "payload": {
            "raw": {
                "updates": [{"key": {"id": "OUT-1", "remoteJid": JID, "fromMe": True, **(key or {})}, "update": change}]
            }
        },
    }


def poll_choice(**payload: Any) -> dict[str, Any]:
    """Build a POLL_CHOICE as the official broker posts it."""
    totals = [{"id": "opt-manha", "text": "Manhã", "votes": 0}, {"id": "opt-tarde", "text": "Tarde", "votes": 1}]
    return {
        "event": "POLL_CHOICE",
        "instanceId": "ipe-01",
        "timestamp": SENT + 1,
        "payload": {
            "pollId": "POLL-9",
            "question": "Qual horário?",
            "chatId": JID,
            "messageId": "VOTE-1",
            "timestamp": "2025-09-16T12:00:00.000Z",
            "voterJid": JID,
            "selectedOptions": [{"id": "opt-tarde", "text": "Tarde"}],
            "optionsAggregates": totals,
            "aggregates": {"totalVoters": 1, "totalVotes": 1, "optionTotals": totals},
            "contact": None,
            **payload,
        },
    }
