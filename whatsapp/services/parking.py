"""What waits for a message that is not here yet, and twins that wait for each other (spec/inbound.md 8, 11, 13)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from leadengine import metrics
from leadengine.ids import uuid7
from leadengine.sql import dumps, insert_rows, loads, unnest
from tickets.services.effects import Ack, apply_acks, edit_message, link_answer, revoke_message, set_reaction

Key = tuple[UUID, str]
_KEY = {"session_id": "uuid", "external_id": "text"}
KEPT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Effect:
    """An ack, reaction, edit or revoke, and the identity of the message that it is meant for.

    `data` is what applying it needs, as JSON; `item` is (event, index) of the ledger line that it came in.
    """

    kind: str
    key: Key
    actor: str
    data: dict[str, Any]
    item: tuple[UUID, int]


def apply_effect(*, tenant_id: UUID, kind: str, key: Key, actor: str, data: dict[str, Any]) -> UUID | None:
    """Apply a reaction, edit, revoke or quote to its message; the message's id, None when it is not here."""
    if kind == "quote":
        return link_answer(tenant_id=tenant_id, key=key, message_id=UUID(actor))
    at, aliases = datetime.fromisoformat(data["at"]), data.get("aliases", ())
    who: dict[str, Any] = {"tenant_id": tenant_id, "key": key, "actor": actor, "aliases": aliases, "at": at}
    if kind == "reaction":
        return set_reaction(**who, emoji=data["emoji"])
    if kind == "edit":
        return edit_message(**who, text=data["text"])
    return revoke_message(**who)


def meet(keys: Collection[Key]) -> None:
    """Wait for whoever gives one of these messages its id, or parks something for it, in another transaction now.

    Who parks looks for the message again after this, who gives an id looks for what is parked: one of both finds it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(name, 2)) FROM unnest(%s::text[]) AS name",
            [sorted({f"{session_id}:{external_id}" for session_id, external_id in keys})],
        )


def park(*, tenant_id: UUID, effect: Effect, now: datetime) -> None:
    """Keep an effect until its message appears, seven days at most; one that comes again is kept once."""
    where: list[Any] = [*effect.key, effect.kind, effect.actor]
    event_id, index = effect.item
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT data FROM whatsapp_parkedeffect "
            "WHERE session_id = %s AND external_id = %s AND kind = %s AND actor = %s AND expires_at > %s",
            [*where, now],
        )
        row = cursor.fetchone()
        kept: dict[str, list[Any]] = loads(row[0]) if row else {"all": [], "items": []}
        for name, value in (("all", effect.data), ("items", [str(event_id), index])):
            if value not in kept[name]:
                kept[name].append(value)
        cursor.execute(
            """INSERT INTO whatsapp_parkedeffect (id, tenant_id, session_id, external_id, kind, actor, data, expires_at)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (session_id, external_id, kind, actor)
               DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at""",
            [uuid7(), tenant_id, *where, dumps(kept), now + KEPT],
        )


def apply_parked(*, tenant_id: UUID, keys: Sequence[Key]) -> None:
    """Messages appeared, or got their id: what waited for them happens now, in the same transaction and its own order.

    What has waited longer than it may is forgotten.
    """
    if not keys:
        return
    source, arrays = unnest(_KEY, list(dict.fromkeys(keys)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""DELETE FROM whatsapp_parkedeffect p USING {source} AS w (session_id, external_id)
                WHERE p.session_id = w.session_id AND p.external_id = w.external_id AND p.tenant_id = %s
                    AND p.kind <> 'twin'
                RETURNING p.session_id, p.external_id, p.kind, p.actor, p.data, p.expires_at > now()""",  # noqa: S608
            [*arrays, tenant_id],
        )
        rows = [((row[0], row[1]), row[2], row[3], loads(row[4])) for row in cursor.fetchall() if row[5]]
    acks = [
        Ack(key, data["status"], datetime.fromisoformat(data["at"]), data["error"])
        for key, kind, _, kept in rows
        if kind == "ack"
        for data in kept["all"]
    ]
    for fate in apply_acks(tenant_id=tenant_id, acks=acks):
        if fate == "applied":
            metrics.count(metrics.message_effects.labels(effect="parked_ack_applied"))
    for key, kind, actor, kept in rows:
        if kind != "ack":
            for data in sorted(kept["all"], key=lambda one: datetime.fromisoformat(one["at"])):
                apply_effect(tenant_id=tenant_id, kind=kind, key=key, actor=actor, data=data)
    _end_items(tenant_id, [item for *_, kept in rows for item in kept["items"]])


def forget_expired(*, tenant_id: UUID, now: datetime) -> None:
    """Drop what has waited longer than it may; the ledger lines of effects end by themselves at that time."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM whatsapp_parkedeffect WHERE tenant_id = %s AND expires_at <= %s", [tenant_id, now])


def find_twins(*, tenant_id: UUID, keys: Sequence[Key]) -> dict[Key, UUID | None]:
    """Which of the keys have been decided already: a message is here, or a raw twin was a reaction or an edit."""
    if not keys:
        return {}
    source, arrays = unnest(_KEY, list(dict.fromkeys(keys)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""WITH w (session_id, external_id) AS (SELECT * FROM {source})
                SELECT w.session_id, w.external_id, m.id FROM w
                JOIN tickets_message m ON m.session_id = w.session_id AND m.external_id = w.external_id
                WHERE m.tenant_id = %s
                UNION ALL
                SELECT w.session_id, w.external_id, NULL FROM w
                JOIN whatsapp_parkedeffect p ON p.session_id = w.session_id AND p.external_id = w.external_id
                WHERE p.tenant_id = %s AND p.kind = 'twin'""",  # noqa: S608
            [*arrays, tenant_id, tenant_id],
        )
        return {(row[0], row[1]): row[2] for row in cursor.fetchall()}


def mark_twins(*, tenant_id: UUID, keys: Collection[Key], now: datetime) -> None:
    """Remember raw reactions and edits for a while: their hollow canonical copies may come later."""
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "whatsapp_parkedeffect",
            {
                "id": "uuid", "tenant_id": "uuid", "session_id": "uuid", "external_id": "text", "kind": "text",
                "actor": "text", "data": "jsonb", "expires_at": "timestamptz",
            },
            [(uuid7(), tenant_id, *key, "twin", "", "{}", now + KEPT) for key in sorted(keys) if key[1]],
            "ON CONFLICT (session_id, external_id, kind, actor) DO NOTHING",
        )  # fmt: skip


def settle_hollow(*, tenant_id: UUID, keys: Collection[Key]) -> None:
    """A raw twin came: the hollow events that waited for it are its duplicates."""
    if not keys:
        return
    source, arrays = unnest(_KEY, sorted(keys))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""UPDATE whatsapp_webhookitem i SET fate = 'duplicate', reason = 'message_duplicate', due_at = NULL
                FROM {source} AS w (session_id, external_id)
                WHERE i.session_id = w.session_id AND i.external_id = w.external_id AND i.tenant_id = %s
                    AND i.fate = 'parked' AND i.reason = 'awaiting_twin'
                RETURNING i.payload_type""",  # noqa: S608
            [*arrays, tenant_id],
        )
        kinds = [row[0] for row in cursor.fetchall()]

    def count() -> None:
        for kind in kinds:
            metrics.webhook_events.labels(result="ignored", reason="message_duplicate", payload_type=kind).inc()

    transaction.on_commit(count)


def _end_items(tenant_id: UUID, items: Sequence[tuple[str, int]]) -> None:
    if not items:
        return
    source, arrays = unnest({"event_id": "uuid", "index": "int"}, items)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""UPDATE whatsapp_webhookitem i SET fate = 'applied', due_at = NULL, expires_at = NULL
                FROM {source} AS w (event_id, index)
                WHERE i.event_id = w.event_id AND i.index = w.index AND i.tenant_id = %s AND i.fate = 'parked'""",  # noqa: S608
            [*arrays, tenant_id],
        )
