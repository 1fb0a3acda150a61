"""What a broker posts of one message: canonical event, raw upsert, acks and votes, as the simulator writes them."""

from __future__ import annotations

import itertools
import time
from typing import Any

from whatsapp.simulator import wire
from whatsapp.simulator.behaviours import Encoding

_ids = itertools.count(1)
MARIA = "5511988887777@s.whatsapp.net"
JOAO = "5521977776666@s.whatsapp.net"
LID = "987654321098765@lid"
GROUP = "120363044455566677@g.us"
NOW = int(time.time()) - 600


def says(content: Any = "Oi", **more: Any) -> wire.Message:
    """A message of a customer in the chat with us; `content` is a text or the raw content."""
    body = {"conversation": content} if isinstance(content, str) else content
    chat = more.pop("chat", MARIA)
    fields: dict[str, Any] = {
        "id": f"W{next(_ids)}", "chat": chat, "sender": more.pop("sender", chat), "from_me": False,
        "timestamp": NOW, "content": body, "push_name": "Maria", **more,
    }  # fmt: skip
    if fields["from_me"]:
        fields["push_name"] = None
    return wire.Message(**fields)


def canonical(message: wire.Message, choice: Any = None, instance: str = "ipe-01") -> dict[str, Any]:
    """MESSAGE_INBOUND, or MESSAGE_OUTBOUND of a message of ours."""
    event = "MESSAGE_OUTBOUND" if message.from_me else "MESSAGE_INBOUND"
    return wire.envelope(event, instance, wire.canonical_payload(message, choice), time.time())


def raw(*messages: wire.Message, instance: str = "ipe-01") -> dict[str, Any]:
    """WHATSAPP_MESSAGES_UPSERT."""
    payload = wire.upsert_payload(instance, messages, "notify", Encoding())
    return wire.envelope("WHATSAPP_MESSAGES_UPSERT", instance, payload, time.time())


def ack(message_id: str, status: int, chat: str = MARIA, **update: Any) -> dict[str, Any]:
    """WHATSAPP_MESSAGES_UPDATE of a message of ours."""
    key = {"remoteJid": chat, "id": message_id, "fromMe": True}
    payload = {"iid": "ipe-01", "raw": {"updates": [{"key": key, "update": {"status": status, **update}}]}}
    return wire.envelope("WHATSAPP_MESSAGES_UPDATE", "ipe-01", payload, time.time())


def reacts(target: str, emoji: str, *, at: int = 0, **more: Any) -> wire.Message:
    """A reaction; an empty emoji takes it back."""
    key = {"remoteJid": more.get("chat", MARIA), "id": target, "fromMe": False}
    return says({"reactionMessage": {"key": key, "text": emoji}}, timestamp=NOW + at, **more)


def edits(target: str, text: str, *, at: int = 0, **more: Any) -> wire.Message:
    """A new text for a message, in the wrapper that phones send."""
    protocol = {"key": {"id": target}, "type": "MESSAGE_EDIT", "editedMessage": {"conversation": text}}
    content = {"editedMessage": {"message": {"protocolMessage": protocol}}}
    return says(content, timestamp=NOW + at, **more)


def revokes(target: str, *, at: int = 0, **more: Any) -> wire.Message:
    """A message deleted for everyone."""
    return says({"protocolMessage": {"key": {"id": target}, "type": "REVOKE"}}, timestamp=NOW + at, **more)


def asks(question: str, *options: str, **more: Any) -> wire.Message:
    """A poll."""
    content = {
        "pollCreationMessageV3": {"name": question, "options": [{"optionName": one} for one in options]},
        "messageContextInfo": {"messageSecret": "c2VncmVkby1kYS1lbnF1ZXRlLTMyLWJ5dGVzLS0tLTE="},
    }
    return says(content, **more)


def votes(poll: wire.Message, *options: str, at: int = 0, **more: Any) -> wire.Message:
    """A vote as the socket sees it: its choice is encrypted."""
    content = {
        "pollUpdateMessage": {
            "pollCreationMessageKey": {"id": poll.id, "remoteJid": poll.chat},
            "vote": {"encPayload": "AAAA", "encIv": "BBBB"},
        }
    }
    return says(content, chat=poll.chat, timestamp=NOW + at, **more)


def choice(vote: wire.Message, poll: wire.Message, *options: str, as_map: bool = False) -> dict[str, Any]:
    """POLL_CHOICE of a vote, with the broker's own totals as a list or a map."""
    payload = wire.poll_choice_payload(vote, poll, {vote.sender: list(options)})
    if as_map:
        totals = {total["text"]: total["votes"] for total in payload["aggregates"]["optionTotals"]}
        payload["aggregates"]["optionTotals"] = totals
        del payload["optionsAggregates"]
    return wire.envelope("POLL_CHOICE", "ipe-01", payload, time.time())
