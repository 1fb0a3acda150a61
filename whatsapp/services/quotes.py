"""Answers find the message that they quote, also when it comes later (spec/inbound.md section 5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.ids import uuid7
from leadengine.sql import dumps, insert_rows, unnest
from tickets.services.effects import link_answer
from whatsapp.services.parking import KEPT, Key, meet

_PARKED = {
    "id": "uuid", "tenant_id": "uuid", "session_id": "uuid", "external_id": "text", "kind": "text", "actor": "text",
    "data": "jsonb", "expires_at": "timestamptz",
}  # fmt: skip


_Answer = tuple[UUID, UUID, str, UUID | None]  # answer, session, quoted identity, quoted message


def follow_quotes(*, tenant_id: UUID, answers: Sequence[tuple[UUID, Key]], now: datetime) -> None:
    """Link answers to what they quote; what is not here yet finds them when it appears, seven days at most.

    `answers` are (id of the answering message, identity of the quoted one).
    """
    if not answers:
        return
    loose = _find_targets(tenant_id, {(message_id, *key) for message_id, key in answers})
    if any(target is None for *_, target in loose):
        meet([(session_id, external_id) for _, session_id, external_id, target in loose if target is None])
        loose = _find_targets(tenant_id, {row[:3] for row in loose})
    with connection.cursor() as cursor:
        data = dumps({"all": [{"at": now.isoformat()}], "items": []})
        insert_rows(
            cursor,
            "whatsapp_parkedeffect",
            _PARKED,
            [
                (uuid7(), tenant_id, session_id, external_id, "quote", str(message_id), data, now + KEPT)
                for message_id, session_id, external_id, target in loose
                if target is None
            ],
            "ON CONFLICT (session_id, external_id, kind, actor) DO NOTHING",
        )
    for message_id, session_id, external_id, target in loose:
        if target is not None:
            link_answer(tenant_id=tenant_id, key=(session_id, external_id), message_id=message_id)


def _find_targets(tenant_id: UUID, wanted: Collection[tuple[UUID, UUID, str]]) -> list[_Answer]:
    """(answer, session, quoted identity, quoted message or None) of each answer that is not linked yet."""
    source, arrays = unnest({"message_id": "uuid", "session_id": "uuid", "external_id": "text"}, sorted(wanted))
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT w.message_id, w.session_id, w.external_id, t.id
                FROM {source} AS w (message_id, session_id, external_id)
                JOIN tickets_message a ON a.id = w.message_id AND a.tenant_id = %s AND a.reply_to_id IS NULL
                LEFT JOIN tickets_message t
                    ON t.session_id = w.session_id AND t.external_id = w.external_id""",  # noqa: S608
            [*arrays, tenant_id],
        )
        found: list[_Answer] = cursor.fetchall()
        return found
