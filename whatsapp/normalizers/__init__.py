"""The pure normaliser: broker payload -> what it means (spec/inbound.md sections 4 to 8 and 11 to 14).

No Django, no I/O, no clock. Nothing here raises for any JSON value: what cannot be read is an `Ignored` item
with the reason it is counted under.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whatsapp.normalizers import entries
from whatsapp.normalizers.acks import normalize_status, normalize_updates
from whatsapp.normalizers.canonical import normalize_message
from whatsapp.normalizers.entries import instance_of, split_body
from whatsapp.normalizers.polls import normalize_choice
from whatsapp.normalizers.raw import normalize_upsert
from whatsapp.normalizers.values import as_id, clean_text
from whatsapp.schemas import Ignored

if TYPE_CHECKING:
    from datetime import datetime

    from whatsapp.schemas import Item

__all__ = ["clean_text", "counts_as_queued", "instance_of", "normalize", "split_body"]


def normalize(entry: Any, *, received_at: datetime, raw_fallback: bool, default_instance_id: str | None) -> list[Item]:
    """Read one entry of `split_body` into its items, in the order of the event.

    received_at: aware; stands in for a time that is missing or not to be believed. raw_fallback: off, raw
    upserts are only acknowledged and no canonical event waits for its twin. An upsert or update without
    entries gives no item (counted `accepted/empty`); everything else gives at least one.
    """
    if type(entry) is not dict:
        return [Ignored("invalid_contract")]
    kind = entries.kind_of(entry)
    instance_id = instance_of(entry, default_instance_id)
    if kind is None or kind == entries.UNKNOWN_KIND:
        reason = "invalid_contract" if kind is None else "unsupported_event"
        return [Ignored(reason, None, instance_id, as_id(entry.get("id")))]
    if instance_id is None:
        return [Ignored("missing_instance", None, None, as_id(entry.get("id")))]
    if kind == entries.UPSERT:
        return normalize_upsert(entry, instance_id, received_at, raw_fallback=raw_fallback)
    if kind == entries.UPDATE:
        return normalize_updates(entry, instance_id, received_at)
    if kind == entries.STATUS:
        return [normalize_status(entry, instance_id, received_at)]
    if kind == entries.POLL_CHOICE:
        return [normalize_choice(entry, instance_id, received_at)]
    return [normalize_message(entry, kind, instance_id, received_at, raw_fallback=raw_fallback)]


def counts_as_queued(item: Item) -> bool:
    """Tell whether an item counts in the `queued` of the answer (section 3): all but the ignored ones do."""
    return item.kind != "ignored"
