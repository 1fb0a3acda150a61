"""One batch of the drain: what its items mean, in one transaction of one tenant, with a statement per table."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from leadengine import metrics
from leads.services import Person, lock_merging
from tickets.services.arrivals import Arrival, Recorded, record_arrivals
from tickets.services.echoes import Echo, settle_echoes
from tickets.services.files import File
from tickets.services.keys import lock_keys
from whatsapp.schemas import Content, InboundMessage, Item, OutboundEcho, PollVote
from whatsapp.services.atendimentos import follow_arrivals
from whatsapp.services.effects import actor_of, apply_ack_items, apply_effects, count_votes
from whatsapp.services.ledger import Earlier, count_items, keep_earlier, save_items
from whatsapp.services.media import wake_media
from whatsapp.services.parking import apply_parked, find_twins, mark_twins, settle_hollow
from whatsapp.services.queue_missing import report_queue_missing
from whatsapp.services.quotes import follow_quotes
from whatsapp.services.traffic import note_traffic

ECHO_RETRY = timedelta(seconds=2)
QUEUE_RETRY = timedelta(seconds=60)
_MAX_THUMBNAIL = 65_536
# Raw twins that make no message: a hollow canonical copy of them is not one either.
_SILENT = {"message_stub", "empty_message", "protocol_message", "sender_key_only"}


@dataclass(slots=True)
class Work:
    """One item on its way to its fate. `row_id` is set when it is looked at again; `counts` once it is final.

    `earlier` is its fate of an earlier run, when the whole event runs again.
    """

    event_id: UUID
    session_id: UUID
    received_at: datetime
    index: int
    item: Item
    row_id: UUID | None = None
    waited_for: str = ""
    expired: bool = False
    fate: str = ""
    reason: str = ""
    message_id: UUID | None = None
    attempts: int = 0
    error: str = ""
    due_at: datetime | None = None
    expires_at: datetime | None = None
    counts: bool = True
    earlier: Earlier | None = None

    @property
    def ended_well_before(self) -> bool:
        """Whether an earlier run of the event brought this very item to a good end."""
        return self.earlier is not None and self.earlier.is_good_end_of(self.item)

    @property
    def key(self) -> tuple[UUID, str]:
        """The identity of the message that this item is, or belongs to."""
        return self.session_id, self.item.external_id or ""

    def end(self, fate: str, reason: str, message_id: UUID | None = None) -> None:
        """Give the item its fate."""
        self.fate, self.reason, self.message_id, self.due_at = fate, reason, message_id, None

    def wait(self, fate: str, reason: str, *, due_at: datetime | None, expires_at: datetime | None = None) -> None:
        """Let the item wait: it is counted when it ends."""
        self.fate, self.reason, self.due_at, self.expires_at, self.counts = fate, reason, due_at, expires_at, False


@dataclass(slots=True)
class Claim:
    """A claimed event with all its items, or one item that waited; `error` when its body cannot be read."""

    id: UUID
    event_id: UUID
    works: list[Work]
    attempts: int
    is_event: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """What the batch needs of a session."""

    id: UUID
    connection_id: str
    owner_id: UUID
    default_queue_id: UUID | None


def process_batch(*, tenant_id: UUID, claims: Sequence[Claim], now: datetime) -> None:
    """Take every item of the claims to its fate, or to waiting, and end the events. Rule: spec/inbound.md section 9."""
    works = [work for claim in claims for work in claim.works]
    lines = _find_lines({work.session_id for work in works})
    lock_merging(tenant_id=tenant_id)  # before every row: a merge by hand waits for the batch, or the batch for it
    _lock_chats(works)
    lock_keys((work.session_id, target) for work in works if (target := _target_of(work.item)))
    for work in works:
        if work.item.kind == "ignored":
            work.end("ignored", work.item.reason)
    _settle_echoes(tenant_id, [work for work in works if work.item.kind == "echo"], now)
    _park_hollow(tenant_id, works, now)
    _record(tenant_id, works, lines, now)
    count_votes(tenant_id=tenant_id, works=works)
    apply_effects(tenant_id=tenant_id, works=works, now=now)
    apply_ack_items(tenant_id=tenant_id, works=works, now=now)
    keep_earlier(works)
    _touch_lines(tenant_id, [work for work in works if work.earlier is None], now)
    save_items(tenant_id=tenant_id, works=works, now=now)
    _end_events([claim.event_id for claim in claims if claim.is_event], now)
    count_items(works, now)
    empty = sum(1 for claim in claims if claim.is_event and not claim.works)
    if empty:
        labels = {"result": "accepted", "reason": "empty", "payload_type": "none"}
        metrics.count(metrics.webhook_events.labels(**labels), empty)


def _find_lines(ids: set[UUID]) -> dict[UUID, Line]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, connection_id, owner_id, default_queue_id FROM whatsapp_sessions WHERE id = ANY(%s)",
            [list(ids)],
        )
        return {row[0]: Line(*row) for row in cursor.fetchall()}


def _lock_chats(works: Sequence[Work]) -> None:
    """Lock the conversations of the batch in one order, so that two batches never wait for each other crosswise."""
    names = {f"{work.session_id}{chat}" for work in works if (chat := getattr(work.item, "chat", None))}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(k) FROM (SELECT DISTINCT hashtextextended(n, 7) AS k "
            "FROM unnest(%s::text[]) n ORDER BY 1) l",
            [sorted(names)],
        )


def _target_of(item: Item) -> str | None:
    """The message that an item changes, if that is its only purpose."""
    if item.kind == "ack":
        return item.external_id
    return getattr(item, "target_external_id", None)


def _settle_echoes(tenant_id: UUID, works: Sequence[Work], now: datetime) -> None:
    """Our own messages coming back (section 12): what none of our rows claims is left to be recorded."""
    echoes = [
        Echo(
            key=work.key,
            identities=tuple(work.item.address.identities()),
            type=work.item.content.type,
            text=work.item.content.text or "",
            sent_at=work.item.sent_at,
        )
        for work in works
        if isinstance(work.item, OutboundEcho)
    ]
    for work, outcome in zip(works, settle_echoes(tenant_id=tenant_id, echoes=echoes, now=now), strict=True):
        raw = work.item.reason == "raw_inbound_ignored"
        if outcome.fate == "settled":
            work.end("applied", work.item.reason, outcome.message_id)
            metrics.count(metrics.message_effects.labels(effect="echo_settled"))
        elif outcome.fate == "known":
            work.end("duplicate", work.item.reason if raw else "message_duplicate", outcome.message_id)
        elif outcome.fate == "in_flight":
            work.wait("parked", "awaiting_send", due_at=now + ECHO_RETRY)
    bound = [work.key for work in works if work.fate == "applied"]
    apply_parked(tenant_id=tenant_id, keys=bound)


def _park_hollow(tenant_id: UUID, works: Sequence[Work], now: datetime) -> None:
    """A canonical event that says nothing waits for its raw twin, which decides (section 8)."""
    decided = {
        work.key
        for work in works
        if work.item.kind in {"reaction", "edit"} or (work.item.cause in _SILENT and work.item.external_id)
    }
    telling = decided | {
        work.key
        for work in works
        if work.item.kind in {"revoke", "vote", "echo"}
        or (isinstance(work.item, InboundMessage) and not work.item.content.hollow)
    }
    hollow = [
        work
        for work in works
        if isinstance(work.item, InboundMessage) and work.item.content.hollow and not work.expired
    ]
    known = find_twins(tenant_id=tenant_id, keys=[work.key for work in hollow])
    for work in hollow:
        if work.key in telling or work.key in known:
            work.end("duplicate", "message_duplicate", known.get(work.key))
        else:
            grace = now + timedelta(seconds=settings.WHATSAPP_TWIN_GRACE_SECONDS)
            work.wait("parked", "awaiting_twin", due_at=grace, expires_at=grace)
    mark_twins(tenant_id=tenant_id, keys=decided, now=now)
    settle_hollow(tenant_id=tenant_id, keys=telling)


def _record(tenant_id: UUID, works: Sequence[Work], lines: dict[UUID, Line], now: datetime) -> None:
    open_works = [
        work for work in works if not work.fate and isinstance(work.item, InboundMessage | PollVote | OutboundEcho)
    ]
    arrivals = [_arrival_of(work, lines[work.session_id]) for work in open_works]
    results = record_arrivals(tenant_id=tenant_id, arrivals=arrivals, now=now)
    if any(arrival.file for arrival in arrivals):
        wake_media()
    for work, result in zip(open_works, results, strict=True):
        _end_recorded(work, result, now)
    stored = [
        (work, result.message) for work, result in zip(open_works, results, strict=True) if result.message is not None
    ]
    follow_arrivals(
        tenant_id=tenant_id,
        rows=[(message, lines[work.session_id], _chat_of(work)) for work, message in stored],
    )
    answers = [
        (work.message_id, (work.session_id, arrival.quoted_id))
        for work, arrival in zip(open_works, arrivals, strict=True)
        if work.message_id is not None and arrival.quoted_id is not None
    ]
    follow_quotes(tenant_id=tenant_id, answers=answers, now=now)
    apply_parked(tenant_id=tenant_id, keys=[work.key for work, _ in stored])
    missing = [work for work in open_works if work.reason == "queue_missing"]
    if missing:
        report_queue_missing(tenant_id=tenant_id, session_id=missing[0].session_id, now=now)
    received = [
        (lines[work.session_id].connection_id, work.item.payload_type)
        for work, message in stored
        if message.arrival.direction == "INBOUND"
    ]

    def count() -> None:
        for name, kind in received:
            metrics.messages_received.labels(instance_name=name, type=kind).inc()

    transaction.on_commit(count)


def _end_recorded(work: Work, result: Recorded, now: datetime) -> None:
    echo = work.item.kind == "echo"
    if result.fate == "queue_missing":
        work.wait("pending", "queue_missing", due_at=now + QUEUE_RETRY)
    elif result.fate == "stored":
        work.end("stored", work.item.reason, result.message_id)
        if echo:
            metrics.count(metrics.message_effects.labels(effect="echo_stored"))
    elif echo and work.item.reason == "raw_inbound_ignored":
        work.end(result.fate, work.item.reason, result.message_id)
    elif result.fate == "enriched":
        work.end("enriched", "poll_choice" if _is_choice(work) else "message_enriched", result.message_id)
    else:
        work.end("duplicate", "poll_choice_duplicate" if _is_choice(work) else "message_duplicate", result.message_id)


def _is_choice(work: Work) -> bool:
    return work.item.reason == "poll_choice"


def _arrival_of(work: Work, line: Line) -> Arrival:
    item = work.item
    assert isinstance(item, InboundMessage | PollVote | OutboundEcho)  # noqa: S101 - narrows the type
    content = item.content
    return Arrival(
        session_id=work.session_id,
        external_id=item.external_id,
        direction="OUTBOUND" if isinstance(item, OutboundEcho) else "INBOUND",
        person=_person_of(item),
        type=content.type,
        text=content.text or "",
        sent_at=item.sent_at,
        received_at=work.received_at,
        queue_id=line.default_queue_id,
        file=_file_of(item),
        sender=_sender_of(item),
        quoted_id=content.quote.external_id if content.quote else None,
        metadata=_metadata_of(item),
    )


def _person_of(item: InboundMessage | PollVote | OutboundEcho) -> Person:
    identities = tuple(item.address.identities())
    if isinstance(item, OutboundEcho):
        return Person(identities, is_group=item.is_group)
    return Person(
        identities,
        is_group=item.is_group,
        name=item.group_subject if item.is_group else item.name,
        push_name=None if item.is_group else item.push_name,
        document=item.document,
        registrations=tuple(item.registrations or ()),
        avatar_url=item.avatar_url,
    )


def _file_of(item: InboundMessage | PollVote | OutboundEcho) -> File | None:
    media = item.content.media
    if media is None:
        return None
    return File(
        media_type=media.media_type,
        mime_type=(media.mime_type or "")[:120],
        file_name=(media.file_name or "")[:255],
        size=media.size,
        seconds=media.seconds,
        width=media.width,
        height=media.height,
        page_count=media.page_count,
        voice=media.ptt,
        thumbnail=_thumbnail_of(media.thumbnail),
        source=media.source,
    )


def _thumbnail_of(encoded: str | None) -> bytes | None:
    try:
        picture = base64.b64decode(encoded or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return picture if 0 < len(picture) <= _MAX_THUMBNAIL else None


def _sender_of(item: InboundMessage | PollVote | OutboundEcho) -> dict[str, Any] | None:
    if isinstance(item, OutboundEcho) or item.sender is None:
        return None
    sender = item.sender
    return {"name": sender.name, "phone": sender.address.phone, "jid": sender.jid, "actor": actor_of(sender.address)}


def _metadata_of(item: InboundMessage | PollVote | OutboundEcho) -> dict[str, Any]:
    content = item.content
    metadata: dict[str, Any] = {
        **item.metadata,
        "broker": item.broker_metadata,
        "brokerMessageTimestamp": item.sent_at_original,
        "normalizedTimestamp": item.sent_at.isoformat().replace("+00:00", "Z"),
    }
    if isinstance(item, OutboundEcho):
        metadata["origin"] = "phone"
    shown = {
        "location": content.location,
        "contacts": content.contacts,
        "interactive": content.interactive,
        "poll": _poll_of(content),
        "unknownKind": content.unknown_kind,
        **content.flags,
    }
    if content.quote:
        shown["quoted"] = {"externalId": content.quote.external_id, "text": content.quote.text}
    if isinstance(item, PollVote):
        shown["vote"] = {"pollId": item.poll_external_id, "question": item.question, "options": item.options}
    return {**metadata, **{key: value for key, value in shown.items() if value}}


def _poll_of(content: Content) -> dict[str, Any] | None:
    """What a message that asks shows; its secret is kept elsewhere, sealed."""
    if content.type != "POLL" or not content.poll:
        return None
    return {key: value for key, value in content.poll.items() if key != "secret"}


def _chat_of(work: Work) -> str:
    return str(getattr(work.item, "chat", ""))


def _touch_lines(tenant_id: UUID, works: Sequence[Work], now: datetime) -> None:
    stored = [work for work in works if work.fate == "stored" and work.item.kind != "echo"]
    heard = [(work.session_id, work.received_at) for work in stored]
    acked = {work.session_id for work in works if work.item.kind == "ack"}
    note_traffic(tenant_id=tenant_id, heard=heard, acked=acked, now=now)


def _end_events(ids: Sequence[UUID], now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_webhookevent SET status = 'PROCESSED', processed_at = %s WHERE id = ANY(%s)",
            [now, list(ids)],
        )
