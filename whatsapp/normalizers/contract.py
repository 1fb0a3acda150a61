"""Which field of an event breaks the contract of spec/inbound.md section 4, and what came in its place. For people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from whatsapp.addresses import parse_jid
from whatsapp.normalizers import entries
from whatsapp.normalizers.values import as_dict, as_id

Wanted = Literal["object", "list", "kind", "known kind", "instance", "id", "address"]
_SHOWN = 60


class Breach(NamedTuple):
    """One field; `came` describes what was there: `missing`, or the type and the beginning of the value."""

    field: str
    wanted: Wanted
    came: str


def find_breaches(entry: Any, *, default_instance_id: str | None) -> list[Breach]:
    """Check one entry field by field; an empty list says that its shape is right, not that it means something."""
    return list(_check(entry, default_instance_id))


def describe(value: Any) -> str:
    """A JSON value in a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "object {" + ", ".join(list(value)[:5]) + "}"
    if isinstance(value, list):
        return f"list of {len(value)}"
    kind = "text" if isinstance(value, str) else "number"
    words = repr(value)
    return f"{kind} {words if len(words) <= _SHOWN else words[:_SHOWN] + '…'}"


def _check(entry: Any, default_instance_id: str | None) -> Iterator[Breach]:
    if not isinstance(entry, dict):
        yield Breach("(event)", "object", describe(entry))
        return
    kind = entries.kind_of(entry)
    if kind is None or kind == entries.UNKNOWN_KIND:
        name = "event" if "event" in entry or "type" not in entry else "type"
        yield Breach(name, "kind" if kind is None else "known kind", _came(entry, name))
    if entries.instance_of(entry, default_instance_id) is None:
        yield Breach("instanceId", "instance", _came(entry, "instanceId"))
    if kind in {entries.UPSERT, entries.UPDATE}:
        yield from _check_lists(entry, kind)
    elif kind == entries.POLL_CHOICE:
        yield from _check_choice(entry)
    elif kind in {entries.INBOUND, entries.OUTBOUND, entries.MESSAGE}:
        yield from _check_message(entry)


def _check_lists(entry: dict[str, Any], kind: str) -> Iterator[Breach]:
    payload = entry.get("payload")
    if not isinstance(payload, dict):
        yield Breach("payload", "object", _came(entry, "payload"))
        return
    raw = entries.raw_block(payload)
    name, find = ("messages", entries.upsert_entries) if kind == entries.UPSERT else ("updates", entries.update_entries)
    if find(payload, raw) is None:
        holder, path = (raw, f"payload.raw.{name}") if "raw" in payload else (payload, f"payload.{name}")
        yield Breach(path, "list", _came(holder, name))


def _check_choice(entry: dict[str, Any]) -> Iterator[Breach]:
    payload = as_dict(entry.get("payload"))
    if as_id(payload.get("pollId")) is None:
        yield Breach("payload.pollId", "id", _came(payload, "pollId"))
    if parse_jid(payload.get("voterJid")) is None:
        yield Breach("payload.voterJid", "address", _came(payload, "voterJid"))


def _check_message(entry: dict[str, Any]) -> Iterator[Breach]:
    older = not isinstance(entry.get("payload"), dict)
    payload, path, who = (entry, "", "from") if older else (entry["payload"], "payload.", "contact")
    message = payload.get("message")
    if not isinstance(message, dict):
        yield Breach(f"{path}message", "object", _came(payload, "message"))
        return
    key = as_dict(message.get("key"))
    if not (as_id(message.get("id")) or as_id(key.get("id")) or as_id(entry.get("id"))):
        yield Breach(f"{path}message.id", "id", _came(message, "id"))
    contact = as_dict(payload.get(who))
    named = (contact.get("remoteJid"), message.get("chatId"), key.get("remoteJid"), key.get("remoteJidAlt"))
    digits = sum(letter.isdigit() for letter in str(contact.get("phone") or ""))
    if not any(map(parse_jid, named)) and not 8 <= digits <= 15:
        yield Breach(f"{path}{who}.phone", "address", _came(contact, "phone"))


def _came(holder: dict[str, Any], name: str) -> str:
    return describe(holder[name]) if name in holder else "missing"
