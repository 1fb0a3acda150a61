"""A webhook body taken apart: entries, their kind, their instance (spec/inbound.md section 4)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from whatsapp.normalizers.values import as_dict, as_id

if TYPE_CHECKING:
    from collections.abc import Iterator

INBOUND = "MESSAGE_INBOUND"
OUTBOUND = "MESSAGE_OUTBOUND"
UPSERT = "WHATSAPP_MESSAGES_UPSERT"
UPDATE = "WHATSAPP_MESSAGES_UPDATE"
POLL_CHOICE = "POLL_CHOICE"
STATUS = "MESSAGE_STATUS"
MESSAGE = "MESSAGE"
UNKNOWN_KIND = "UNKNOWN"

_KINDS = {
    INBOUND: INBOUND,
    "INBOUND_MESSAGE": INBOUND,
    "MESSAGE_RECEIVED": INBOUND,
    "MESSAGE_RECEIVE": INBOUND,
    "MESSAGE_INCOMING": INBOUND,
    "INCOMING_MESSAGE": INBOUND,
    OUTBOUND: OUTBOUND,
    UPSERT: UPSERT,
    UPDATE: UPDATE,
    POLL_CHOICE: POLL_CHOICE,
    STATUS: STATUS,
    MESSAGE: MESSAGE,
}
_NO_WORD = re.compile(r"[\W_]+")
_MAX_WRAPPERS = 3
# What an entry may inherit from a `{"body": ...}` around it. Other keys of such a wrapper are its transport's
# (headers with keys among them) and have no business in a stored event.
_ENVELOPE = frozenset(
    {"event", "type", "id", "instanceId", "iid", "timestamp", "cursor", "direction"}
    | {"payload", "from", "message", "metadata"}
)


def split_body(parsed: Any) -> list[Any]:
    """Take a webhook body apart into its entries, in order.

    A body is one event, a list of events or `{"events": [...]}`; an entry may be wrapped as
    `{"body": event or list, ...}`, up to 3 levels, where inner keys win. An entry that is no object stays.
    """
    return list(_split(parsed, {}, 0))


def _split(value: Any, outer: dict[str, Any], level: int) -> Iterator[Any]:
    if type(value) is dict and type(value.get("events")) is list:
        value = value["events"]
    for entry in value if type(value) is list else (value,):
        body = entry.get("body") if type(entry) is dict else None
        if type(body) in (dict, list) and level < _MAX_WRAPPERS:
            inherited = {key: item for key, item in entry.items() if key in _ENVELOPE}
            yield from _split(body, {**outer, **inherited}, level + 1)
        else:
            yield {**outer, **entry} if outer and type(entry) is dict else entry


def kind_of(entry: dict[str, Any]) -> str | None:
    """Give the kind of an event: the first known word of `event` and `type`, else what its shape says.

    UNKNOWN_KIND for a word we do not know, None for an object without kind and without a known shape.
    """
    named = False
    for value in (entry.get("event"), entry.get("type")):
        kind = word_kind(value)
        if kind and kind != UNKNOWN_KIND:
            return kind
        named = named or kind is not None
    if named:
        return UNKNOWN_KIND
    payload = as_dict(entry.get("payload"))
    if "messages" in payload or "raw" in payload:
        return UPSERT
    return MESSAGE if "from" in entry and "message" in entry else None


def word_kind(value: Any) -> str | None:
    """Give the kind that a word names, UNKNOWN_KIND for one we do not know, None for no word at all."""
    if type(value) is not str:
        return None
    if known := _KINDS.get(value):
        return known
    word = _NO_WORD.sub("_", value).strip("_").upper()
    return _KINDS.get(word, UNKNOWN_KIND) if word else None


def instance_of(entry: Any, default_instance_id: str | None) -> str | None:
    """Give the broker's instance id of an entry; the default counts only when the event names none."""
    envelope = as_dict(entry)
    payload = as_dict(envelope.get("payload"))
    return (
        as_id(envelope.get("instanceId"))
        or as_id(payload.get("instanceId"))
        or as_id(envelope.get("iid"))
        or as_id(payload.get("iid"))
        or default_instance_id
        or None
    )


def raw_block(payload: dict[str, Any]) -> dict[str, Any]:
    """Give `payload.raw`: an object, JSON in a string, or nested once more under `raw` or `payload`."""
    raw = _parsed(payload.get("raw"))
    if "messages" in raw or "updates" in raw:
        return raw
    return _parsed(raw.get("raw")) or _parsed(raw.get("payload")) or raw


def _parsed(value: Any) -> dict[str, Any]:
    if type(value) is str:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return as_dict(value)


def upsert_entries(payload: dict[str, Any], raw: dict[str, Any]) -> list[Any] | None:
    """Give the raw messages of an upsert, each once by `key.id`, first seen first; None when it has no list.

    The broker repeats each message up to three times. Entries without an id cannot be told apart, so only
    those of the first list that has any entry count.
    """
    listed = [
        messages
        for holder in (raw, payload, as_dict(payload.get("normalized")))
        if type(messages := holder.get("messages")) is list
    ]
    if not listed:
        return None
    seen: set[str] = set()
    entries: list[Any] = []
    first = True
    for messages in listed:
        for message in messages:
            external_id = as_id(as_dict(as_dict(message).get("key")).get("id"))
            if external_id is None:
                if first:
                    entries.append(message)
            elif external_id not in seen:
                seen.add(external_id)
                entries.append(message)
        first = first and not messages
    return entries


def update_entries(payload: dict[str, Any], raw: dict[str, Any]) -> list[Any] | None:
    """Give the acks of an update event; None when it has no list."""
    for holder in (raw, payload):
        if type(updates := holder.get("updates")) is list:
            return updates
    return None
