"""What waits for a message that is not here yet, and twins that wait for each other (spec/inbound.md 8, 11, 13)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from leadengine import metrics
from leadengine.ids import uuid7
from leadengine.sql import dumps, insert_rows, loads, unnest
from tickets.services.effects import Ack, apply_acks, edit_message, revoke_message, set_reaction

Key = tuple[UUID, str]
_KEY = {"session_id": "uuid", "external_id": "text"}
_ACK_RANK = {1: 1, 2: 2, 0: 3, 3: 4, 4: 5, 5: 6}
KEPT = timedelta(days=7)


def apply_effect(*, tenant_id: UUID, kind: str, key: Key, actor: str, data: dict[str, Any]) -> UUID | None:
    """Apply a reaction, edit or revoke to its message; the message's id, None when it is not here."""
    at = datetime.fromisoformat(data["at"])
    if kind == "reaction":
        return set_reaction(tenant_id=tenant_id, key=key, actor=actor, emoji=data["emoji"], at=at)
    if kind == "edit":
        return edit_message(tenant_id=tenant_id, key=key, actor=actor, text=data["text"], at=at)
    return revoke_message(tenant_id=tenant_id, key=key, actor=actor, at=at)


def park(*, tenant_id: UUID, key: Key, kind: str, actor: str, data: dict[str, Any], now: datetime) -> None:
    """Keep an effect until its message appears, seven days at most; of several acks the highest is kept."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT data FROM whatsapp_parkedeffect "
            "WHERE session_id = %s AND external_id = %s AND kind = %s AND actor = %s",
            [*key, kind, actor],
        )
        row = cursor.fetchone()
        if row is not None:
            earlier = loads(row[0])
            higher = (
                _ACK_RANK[earlier["status"]] >= _ACK_RANK[data["status"]]
                if kind == "ack"
                else earlier["at"] > data["at"]
            )
            if higher:
                return
        cursor.execute(
            """INSERT INTO whatsapp_parkedeffect (id, tenant_id, session_id, external_id, kind, actor, data, expires_at)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (session_id, external_id, kind, actor)
               DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at""",
            [uuid7(), tenant_id, *key, kind, actor, dumps(data), now + KEPT],
        )


def apply_parked(*, tenant_id: UUID, keys: Sequence[Key]) -> None:
    """Messages appeared, or got their id: what waited for them happens now, in the same transaction."""
    if not keys:
        return
    source, arrays = unnest(_KEY, list(dict.fromkeys(keys)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""DELETE FROM whatsapp_parkedeffect p USING {source} AS w (session_id, external_id)
                WHERE p.session_id = w.session_id AND p.external_id = w.external_id AND p.tenant_id = %s
                    AND p.kind <> 'twin'
                RETURNING p.session_id, p.external_id, p.kind, p.actor, p.data""",  # noqa: S608
            [*arrays, tenant_id],
        )
        rows = [(*row[:4], loads(row[4])) for row in cursor.fetchall()]
    acks = [
        Ack((session_id, external_id), data["status"], datetime.fromisoformat(data["at"]), data["error"])
        for session_id, external_id, kind, _, data in rows
        if kind == "ack"
    ]
    for fate in apply_acks(tenant_id=tenant_id, acks=acks):
        if fate == "applied":
            metrics.count(metrics.message_effects.labels(effect="parked_ack_applied"))
    for session_id, external_id, kind, actor, data in rows:
        if kind != "ack":
            apply_effect(tenant_id=tenant_id, kind=kind, key=(session_id, external_id), actor=actor, data=data)
    if rows:
        _end_items(tenant_id, {(row[0], row[1]) for row in rows})


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


def _end_items(tenant_id: UUID, keys: Collection[Key]) -> None:
    source, arrays = unnest(_KEY, sorted(keys))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""UPDATE whatsapp_webhookitem i SET fate = 'applied' FROM {source} AS w (session_id, external_id)
                WHERE i.session_id = w.session_id AND i.external_id = w.external_id AND i.tenant_id = %s
                    AND i.fate = 'parked' AND i.kind = 'ack'""",  # noqa: S608
            [*arrays, tenant_id],
        )
